//! A fixed number of threads that work on one thing at a time, side by side.
#![allow(unsafe_code, reason = "lends a closure of the caller to threads that outlive the call")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// How often a barrier is looked at before the thread gives way to others.
const SPINS: u32 = 4096;

/// Most threads of a team.
pub(super) const MAX_MEMBERS: u8 = 64;

/// Threads that run the same closure, each with its own number. Dropping the team ends them.
pub(super) struct Team {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held while a job runs: a team does one at a time.
    turn: Mutex<()>,
}

struct Shared {
    state: Mutex<State>,
    /// A job is there, or the team ends.
    begin: Condvar,
    /// A thread has done its part.
    done: Condvar,
    barrier: Barrier,
}

#[derive(Default)]
struct State {
    job: Option<Job>,
    /// Counts jobs, so that no thread takes one twice.
    n_jobs: u64,
    n_running: usize,
    is_over: bool,
}

/// The caller's closure; `Team::run` outlives its use.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(Member<'_>) + Sync));

// SAFETY: the closure is `Sync`, so threads may call it at the same time.
unsafe impl Send for Job {}

/// One thread's place in a team at work.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) idx: usize,
    pub(super) n_members: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// The only one.
    pub(super) fn alone() -> Member<'static> {
        static ALONE: Barrier = Barrier::new(1);
        Member { idx: 0, n_members: 1, barrier: &ALONE }
    }

    /// Waits until all members are here; what they wrote before is then seen by all.
    ///
    /// # Panics
    /// When another member panicked, which will never come here.
    pub(super) fn wait(&self) {
        if self.n_members > 1 {
            self.barrier.wait();
        }
    }

    /// This member's part of `n` things, which lie side by side.
    pub(super) fn share(&self, n: usize) -> std::ops::Range<usize> {
        n * self.idx / self.n_members..n * (self.idx + 1) / self.n_members
    }
}

/// A barrier that spins: steps of a network are far shorter than a thread takes to sleep and wake.
struct Barrier {
    n_members: usize,
    n_waiting: AtomicUsize,
    round: AtomicUsize,
    /// A member panicked.
    is_broken: AtomicBool,
}

impl Barrier {
    const fn new(n_members: usize) -> Self {
        let (n_waiting, round) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Barrier { n_members, n_waiting, round, is_broken: AtomicBool::new(false) }
    }

    fn wait(&self) {
        let round = self.round.load(Ordering::Acquire);
        if self.n_waiting.fetch_add(1, Ordering::AcqRel) + 1 == self.n_members {
            self.n_waiting.store(0, Ordering::Relaxed);
            self.round.fetch_add(1, Ordering::Release);
            return;
        }
        let mut n_spins = 0;
        while self.round.load(Ordering::Acquire) == round {
            assert!(!self.is_broken.load(Ordering::Relaxed), "another thread of the engine panicked");
            n_spins += 1;
            if n_spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
    }
}

impl Team {
    /// A team of `n_members` threads, 1 to 64, the caller's being one of them.
    pub(super) fn new(n_members: usize) -> Self {
        let n_members = n_members.clamp(1, usize::from(MAX_MEMBERS));
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            begin: Condvar::new(),
            done: Condvar::new(),
            barrier: Barrier::new(n_members),
        });
        let start = |idx: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("engine {idx}")).spawn(move || shared.work(idx))
        };
        let threads: Vec<_> = (1..n_members).map_while(|idx| start(idx).ok()).collect();
        if threads.len() + 1 == n_members {
            return Team { shared, threads, turn: Mutex::default() };
        }
        // The system gives no more threads: a team of one does the same work.
        log::warn!("no {n_members} threads for the engine, going on with 1");
        drop(Team { shared, threads, turn: Mutex::default() });
        Team::new(1)
    }

    /// How many threads work.
    pub(super) fn n_members(&self) -> usize {
        self.threads.len() + 1
    }

    /// Runs `job` on every member and returns when all are done.
    ///
    /// # Panics
    /// When a member panicked.
    pub(super) fn run(&self, job: &(dyn Fn(Member<'_>) + Sync)) {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let me = Member { idx: 0, n_members: self.n_members(), barrier: &self.shared.barrier };
        if self.threads.is_empty() {
            return job(me);
        }
        // SAFETY: only the lifetime changes; below, this call waits until no thread uses the job any more.
        let job_for_all: &'static (dyn Fn(Member<'_>) + Sync) = unsafe { std::mem::transmute(job) };
        {
            let mut state = self.shared.state();
            state.job = Some(Job(job_for_all));
            state.n_jobs += 1;
            state.n_running = self.threads.len();
        }
        self.shared.begin.notify_all();
        let mine = self.shared.call(job, me);
        let mut state = self.shared.state();
        while state.n_running > 0 {
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.job = None;
        drop(state);
        self.shared.barrier.n_waiting.store(0, Ordering::Relaxed);
        let has_panicked = self.shared.barrier.is_broken.swap(false, Ordering::Relaxed);
        if let Err(panic) = mine {
            std::panic::resume_unwind(panic);
        }
        assert!(!has_panicked, "a thread of the engine panicked");
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the job; a panic breaks the barrier, so that no other member waits there for ever.
    fn call(&self, job: &(dyn Fn(Member<'_>) + Sync), member: Member<'_>) -> std::thread::Result<()> {
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(member)));
        if outcome.is_err() {
            self.barrier.is_broken.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn work(&self, idx: usize) {
        let mut n_done = 0;
        loop {
            let mut state = self.state();
            while !state.is_over && state.n_jobs == n_done {
                state = self.begin.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.is_over {
                return;
            }
            n_done = state.n_jobs;
            let Some(job) = state.job else { continue };
            drop(state);
            let member = Member { idx, n_members: self.barrier.n_members, barrier: &self.barrier };
            // SAFETY: `Team::run` waits for `n_running` to reach 0 before the closure ends.
            let job = unsafe { &*job.0 };
            // The team's caller hears of a panic through the broken barrier.
            let _ = self.call(job, member);
            self.state().n_running -= 1;
            self.done.notify_one();
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state().is_over = true;
        self.shared.begin.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_member_does_its_part_of_every_job() {
        let team = Team::new(3);
        let n_done = [const { AtomicUsize::new(0) }; 3];
        for round in 1..=100 {
            team.run(&|member| {
                n_done[member.idx].fetch_add(1, Ordering::Relaxed);
                member.wait();
                assert_eq!(n_done.iter().map(|n| n.load(Ordering::Relaxed)).sum::<usize>(), 3 * round);
                member.wait();
            });
        }
    }

    #[test]
    fn a_panic_ends_the_job_everywhere_and_the_team_goes_on() {
        let team = Team::new(2);
        for panicking in [0, 1] {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                team.run(&|member| {
                    assert_ne!(member.idx, panicking, "as the test wants");
                    member.wait();
                });
            }));
            assert!(outcome.is_err());
            team.run(&|member| member.wait());
        }
    }

    #[test]
    fn shares_cover_everything_once() {
        for n in 0..20 {
            let team = Team::new(3);
            let seen = [const { AtomicUsize::new(0) }; 20];
            team.run(&|member| {
                for i in member.share(n) {
                    seen[i].fetch_add(1, Ordering::Relaxed);
                }
            });
            let counts: Vec<_> = seen.iter().map(|s| s.load(Ordering::Relaxed)).collect();
            assert!(counts[..n].iter().all(|&c| c == 1) && counts[n..].iter().all(|&c| c == 0), "{counts:?}");
        }
    }
}
