//! Where events go out: each outlet has a queue of its own, and none can hold up the others or the watching.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::Event;
use super::event::{Health, Id};
use super::faults::MAX_EVENTS;
use super::machine::random;
use super::witness::{Judged, Looked, Witness};
use crate::bundle::Manifest;
use crate::gallery::Sample;

/// Events that wait for an outlet.
const QUEUE: usize = 1024;
/// Events whose memory is used again once all outlets are done with them; more than are kept for a report.
const MAX_GIVEN: usize = 2 * MAX_EVENTS;

/// The newest events, oldest first, at most [`MAX_EVENTS`].
pub type Last = Arc<Mutex<VecDeque<Arc<Event>>>>;

/// Gives every event to every outlet, and shows every witness what there is to see.
pub struct Hub {
    /// The newest event's.
    id: Cell<Id>,
    /// The newest events, oldest first.
    given: RefCell<VecDeque<Arc<Event>>>,
    last: Option<Last>,
    witnesses: RefCell<Vec<Box<dyn Witness>>>,
    outlets: Vec<SyncSender<Arc<Event>>>,
    /// Where nothing may be lost, the watching waits for the outlets.
    is_lossless: bool,
    n_lost: Cell<u64>,
}

impl Hub {
    /// Without outlets.
    pub fn new(is_lossless: bool) -> Self {
        Hub {
            id: Cell::new(Id { run: random(), n: 0 }),
            given: RefCell::default(),
            last: None,
            witnesses: RefCell::default(),
            outlets: Vec::new(),
            is_lossless,
            n_lost: Cell::new(0),
        }
    }

    /// Another outlet: what it receives are the events from now on, until the hub is dropped.
    pub fn subscribe(&mut self) -> Receiver<Arc<Event>> {
        let (sender, receiver) = sync_channel(QUEUE);
        self.outlets.push(sender);
        receiver
    }

    /// Keeps the newest events from now on. An event is there before any outlet has it.
    pub fn keep_last(&mut self) -> Last {
        let empty = || Arc::new(Mutex::new(VecDeque::with_capacity(MAX_EVENTS)));
        Arc::clone(self.last.get_or_insert_with(empty))
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

    /// Tells the witnesses that another model judges.
    pub fn change_model(&self, manifest: &Manifest) {
        self.witnesses.borrow_mut().iter_mut().for_each(|witness| witness.model_changed(manifest));
    }

    /// Tells the witnesses that other settings hold.
    pub fn change_settings(&self, settings: &str) {
        self.witnesses.borrow_mut().iter_mut().for_each(|witness| witness.settings_changed(settings));
    }

    /// Tells those who want it that the watching goes on, and how the program is; `health` is asked once, or not at all.
    pub fn pulse(&self, health: impl FnOnce() -> Health) {
        let mut witnesses = self.witnesses.borrow_mut();
        let mut wanting = witnesses.iter_mut().filter(|witness| witness.wants_pulse()).peekable();
        if wanting.peek().is_some() {
            let health = health();
            wanting.for_each(|witness| witness.pulse(&health));
        }
    }

    /// Gives out a verdict, with what it rests on for the witnesses.
    pub fn judge(&self, event: Event, scores: &[f32], samples: &[Sample]) {
        let event = self.identified(event);
        let judged = Judged { event: &event, scores, samples };
        self.witnesses.borrow_mut().iter_mut().for_each(|witness| witness.judged(&judged));
        self.give(&event);
    }

    /// Gives out an event. An outlet whose queue is full, or that has ended, goes without.
    pub fn publish(&self, event: Event) {
        self.give(&self.identified(event));
    }

    /// The event with its own id.
    fn identified(&self, event: Event) -> Arc<Event> {
        let Id { run, n } = self.id.get();
        let event = Event { id: Id { run, n: n + 1 }, ..event };
        self.id.set(event.id);
        let mut given = self.given.borrow_mut();
        // The oldest is the first that all are done with.
        let is_free = given.front().is_some_and(|oldest| Arc::strong_count(oldest) == 1);
        let used = if is_free || given.len() == MAX_GIVEN { given.pop_front() } else { None };
        let event = in_memory_of(used, event);
        given.push_back(Arc::clone(&event));
        event
    }

    fn give(&self, event: &Arc<Event>) {
        if let Some(last) = &self.last {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == MAX_EVENTS {
                last.pop_front();
            }
            last.push_back(Arc::clone(event));
        }
        for outlet in &self.outlets {
            if self.is_lossless {
                // One that has ended wants nothing.
                let _ = outlet.send(Arc::clone(event));
            } else if let Err(TrySendError::Full(_)) = outlet.try_send(Arc::clone(event)) {
                self.n_lost.set(self.n_lost.get() + 1);
            }
        }
    }

    /// Events that an outlet was too slow for.
    pub fn n_lost(&self) -> u64 {
        self.n_lost.get()
    }
}

/// `event` in the memory of `used`, unless somebody still has that.
fn in_memory_of(used: Option<Arc<Event>>, event: Event) -> Arc<Event> {
    if let Some(mut used) = used
        && let Some(memory) = Arc::get_mut(&mut used)
    {
        *memory = event;
        return used;
    }
    Arc::new(event)
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
        let ids: Vec<Id> = slow.iter().map(|event| event.id).collect();
        assert_eq!(ids.len(), QUEUE);
        assert!(ids.iter().map(|id| id.n).eq(1..=QUEUE as u64), "{ids:?}");
        assert!(ids.iter().all(|id| id.run == ids[0].run), "{ids:?}");

        let mut other = Hub::new(false);
        let events = other.subscribe();
        other.publish(stamp.event(0, What::FaceAppeared { track_id: 1, bbox: [0.0; 4] }));
        assert_ne!(events.recv().unwrap().id, ids[0], "another run");
    }
}
