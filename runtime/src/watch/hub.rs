//! Where events go out: each outlet has a queue of its own, and none can hold up the others or the watching.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use super::Event;
use super::event::Health;
use super::witness::{Judged, Looked, Witness};
use crate::gallery::Sample;

/// Events that wait for an outlet.
const QUEUE: usize = 1024;

/// Gives every event to every outlet, and shows every witness what there is to see.
#[derive(Default)]
pub struct Hub {
    witnesses: RefCell<Vec<Box<dyn Witness>>>,
    outlets: Vec<SyncSender<Arc<Event>>>,
    /// Where nothing may be lost, the watching waits for the outlets.
    is_lossless: bool,
    n_lost: AtomicU64,
}

impl Hub {
    /// Without outlets.
    pub fn new(is_lossless: bool) -> Self {
        Hub { is_lossless, ..Hub::default() }
    }

    /// Another outlet: what it receives are the events from now on, until the hub is dropped.
    pub fn subscribe(&mut self) -> Receiver<Arc<Event>> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.outlets.push(sender);
        receiver
    }

    /// Another witness.
    pub fn attend(&mut self, witness: Box<dyn Witness>) {
        self.witnesses.get_mut().push(witness);
    }

    /// Shows a frame that was searched to those who want it; `looked` is asked once, or not at all.
    pub fn look<'a>(&self, looked: impl FnOnce() -> Looked<'a>) {
        let mut witnesses = self.witnesses.borrow_mut();
        let mut wanting = witnesses.iter_mut().filter(|witness| witness.wants_pictures()).peekable();
        if wanting.peek().is_none() {
            return;
        }
        let looked = looked();
        wanting.for_each(|witness| witness.looked(&looked));
    }

    /// Tells every witness that the watching goes on, and how the program is; `health` is asked once, or not at all.
    pub fn pulse(&self, health: impl FnOnce() -> Health) {
        let mut witnesses = self.witnesses.borrow_mut();
        if !witnesses.is_empty() {
            let health = health();
            witnesses.iter_mut().for_each(|witness| witness.pulse(&health));
        }
    }

    /// Gives out a verdict, with what it rests on for the witnesses.
    pub fn judge(&self, event: Event, scores: &[f32], samples: &[Sample]) {
        let event = Arc::new(event);
        let judged = Judged { event: &event, scores, samples };
        self.witnesses.borrow_mut().iter_mut().for_each(|witness| witness.judged(&judged));
        self.give(&event);
    }

    /// Gives out an event. An outlet whose queue is full, or that has ended, goes without.
    pub fn publish(&self, event: Event) {
        self.give(&Arc::new(event));
    }

    fn give(&self, event: &Arc<Event>) {
        for outlet in &self.outlets {
            if self.is_lossless {
                // One that has ended wants nothing.
                let _ = outlet.send(Arc::clone(event));
            } else if let Err(TrySendError::Full(_)) = outlet.try_send(Arc::clone(event)) {
                self.n_lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Events that an outlet was too slow for.
    pub fn n_lost(&self) -> u64 {
        self.n_lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{Stamp, What};
    use super::*;

    #[test]
    fn a_slow_outlet_loses_what_is_too_much_and_holds_up_nobody() {
        let mut hub = Hub::new(false);
        let (slow, ended) = (hub.subscribe(), hub.subscribe());
        drop(ended);
        let stamp = Stamp { file: "x".into(), start_ns: 0 };
        for n in 0..QUEUE + 5 {
            let track_id = u32::try_from(n).unwrap();
            hub.publish(stamp.event(0, What::FaceAppeared { track_id, bbox: [0.0; 4] }));
        }
        assert_eq!(hub.n_lost(), 5);
        drop(hub);
        assert_eq!(slow.iter().count(), QUEUE);
    }
}
