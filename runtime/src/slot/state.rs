//! The two slots as a state machine: no files, no clock, no log.
//!
//! Empty -> Staged (installed) -> Trial (first start with it) -> Confirmed, or Bad. At most one slot is Staged or
//! in Trial. `current` names the Confirmed slot that runs when no trial does; without one the built-in bundle runs.

use serde::{Deserialize, Serialize};

use crate::bundle::Digest;

/// A slot's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Name {
    /// The first.
    A,
    /// The second.
    B,
}

impl Name {
    /// Both.
    pub const ALL: [Name; 2] = [Name::A, Name::B];

    /// The other one.
    pub fn other(self) -> Self {
        match self {
            Name::A => Name::B,
            Name::B => Name::A,
        }
    }
}

/// The bundle of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// SHA-256 of the whole file.
    pub digest: Digest,
    /// The model's name.
    pub id: String,
    /// The model's version.
    pub version: String,
    /// Its security epoch.
    pub security_epoch: u32,
    /// Who signed it: name and key.
    pub signers: Vec<String>,
}

/// What a slot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Slot {
    /// Nothing.
    #[default]
    Empty,
    /// A bundle that no start has tried.
    Staged(Held),
    /// A bundle that is being tried.
    Trial {
        /// The bundle.
        held: Held,
        /// Starts that may still fail.
        left: u8,
        /// Whether a run with it has ended well.
        has_run: bool,
    },
    /// A bundle that was found good.
    Confirmed(Held),
    /// A bundle that was found bad; its file is gone.
    Bad {
        /// The bundle.
        held: Held,
        /// Why.
        reason: String,
    },
}

impl Slot {
    /// The bundle whose file must be kept.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Slot::Staged(held) | Slot::Trial { held, .. } | Slot::Confirmed(held) => Some(held),
            Slot::Empty | Slot::Bad { .. } => None,
        }
    }

    fn is_candidate(&self) -> bool {
        matches!(self, Slot::Staged(_) | Slot::Trial { .. })
    }
}

/// Why a step isn't taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A trial is running.
    #[error("slot {0:?}: a trial is running: confirm it or roll it back first")]
    TrialRuns(Name),
    /// Another bundle is to be tried first.
    #[error("slot {0:?}: another bundle is to be tried first")]
    OtherWaits(Name),
    /// Nothing is in trial.
    #[error("nothing to confirm: no slot is in trial")]
    NothingInTrial,
    /// The trial has not shown anything yet.
    #[error("slot {0:?}: no run with it has ended well yet")]
    NotTried(Name),
    /// The built-in bundle runs.
    #[error("nothing to roll back: the built-in bundle runs, and no slot is staged or in trial")]
    NothingToRollBack,
    /// The bundle runs already.
    #[error("slot {0:?}: this bundle is confirmed and runs already")]
    RunsAlready(Name),
}

/// What a start runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// The built-in bundle.
    Floor,
    /// The current slot's.
    Confirmed(Held),
    /// A bundle in trial.
    Trial(Held),
}

impl Boot {
    /// The slot's bundle.
    pub fn held(&self) -> Option<&Held> {
        match self {
            Boot::Floor => None,
            Boot::Confirmed(held) | Boot::Trial(held) => Some(held),
        }
    }
}

/// Both slots.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slots {
    a: Slot,
    b: Slot,
    current: Option<Name>,
    security_epoch: u32,
}

impl Slots {
    /// What a slot holds.
    pub fn slot(&self, name: Name) -> &Slot {
        match name {
            Name::A => &self.a,
            Name::B => &self.b,
        }
    }

    fn slot_mut(&mut self, name: Name) -> &mut Slot {
        match name {
            Name::A => &mut self.a,
            Name::B => &mut self.b,
        }
    }

    /// The Confirmed slot that runs without a trial.
    pub fn current(&self) -> Option<Name> {
        self.current
    }

    /// Bundles below are refused.
    pub fn security_epoch(&self) -> u32 {
        self.security_epoch
    }

    /// The bundles whose files must be kept.
    pub fn held(&self) -> impl Iterator<Item = &Held> {
        [&self.a, &self.b].into_iter().filter_map(Slot::held)
    }

    /// The slot that is Staged or in Trial.
    pub fn candidate(&self) -> Option<Name> {
        Name::ALL.into_iter().find(|name| self.slot(*name).is_candidate())
    }

    /// Whether a bundle may be staged now: not while a trial runs.
    ///
    /// # Errors
    /// [`Refusal::TrialRuns`].
    pub fn can_stage(&self) -> Result<(), Refusal> {
        match self.candidate() {
            Some(name) if matches!(self.slot(name), Slot::Trial { .. }) => Err(Refusal::TrialRuns(name)),
            _ => Ok(()),
        }
    }

    /// Puts a bundle where the current one isn't; a bundle that was staged there before is forgotten.
    ///
    /// # Errors
    /// [`Refusal::TrialRuns`], [`Refusal::RunsAlready`].
    pub fn stage(&mut self, held: Held) -> Result<Name, Refusal> {
        self.can_stage()?;
        if let Some(current) = self.current
            && self.slot(current).held().is_some_and(|h| h.digest == held.digest)
        {
            return Err(Refusal::RunsAlready(current));
        }
        let name = self.current.map(Name::other).or(self.candidate()).unwrap_or(Name::A);
        *self.slot_mut(name) = Slot::Staged(held);
        Ok(name)
    }

    /// A start: counts it where a trial runs or begins, and says what runs. A trial without starts left is Bad,
    /// with the reason as the second value.
    pub fn boot(&mut self, trial_boots: u8) -> (Boot, Option<(Held, String)>) {
        let mut failed = None;
        if let Some(name) = self.candidate() {
            let (held, left, has_run) = match self.slot(name) {
                Slot::Trial { held, left, has_run } => (held.clone(), *left, *has_run),
                Slot::Staged(held) => (held.clone(), trial_boots, false),
                Slot::Empty | Slot::Confirmed(_) | Slot::Bad { .. } => return (self.without_trial(), None),
            };
            if let Some(left) = left.checked_sub(1) {
                *self.slot_mut(name) = Slot::Trial { held: held.clone(), left, has_run };
                return (Boot::Trial(held), None);
            }
            let reason = "no start is left: runs with it did not end".to_owned();
            *self.slot_mut(name) = Slot::Bad { held: held.clone(), reason: reason.clone() };
            failed = Some((held, reason));
        }
        (self.without_trial(), failed)
    }

    /// What a start runs when no slot is in trial.
    pub fn without_trial(&self) -> Boot {
        let held = self.current.and_then(|name| self.slot(name).held());
        held.map_or(Boot::Floor, |held| Boot::Confirmed(held.clone()))
    }

    /// What the next start would run; changes nothing.
    pub fn next_boot(&self) -> Boot {
        match self.candidate().map(|name| self.slot(name)) {
            Some(Slot::Staged(held)) => Boot::Trial(held.clone()),
            Some(Slot::Trial { held, left: 1.., .. }) => Boot::Trial(held.clone()),
            _ => self.without_trial(),
        }
    }

    /// A run with the bundle in trial ended well: its start doesn't count as failed. Whether that changed
    /// anything.
    pub fn ran_well(&mut self, digest: Digest) -> bool {
        self.end_start(digest, true)
    }

    /// A start with the bundle in trial ended in good order and showed nothing: it doesn't count. Whether that
    /// changed anything.
    pub fn was_not_tried(&mut self, digest: Digest) -> bool {
        self.end_start(digest, false)
    }

    fn end_start(&mut self, digest: Digest, has_shown: bool) -> bool {
        let Some(name) = self.candidate() else { return false };
        match self.slot_mut(name) {
            Slot::Trial { held, left, has_run } if held.digest == digest => {
                *left = left.saturating_add(1);
                *has_run |= has_shown;
                true
            }
            _ => false,
        }
    }

    /// Makes the bundle in trial the current one, and its epoch the least.
    ///
    /// # Errors
    /// [`Refusal::NothingInTrial`], [`Refusal::NotTried`].
    pub fn confirm(&mut self) -> Result<Held, Refusal> {
        let name = self.candidate().ok_or(Refusal::NothingInTrial)?;
        let held = match self.slot(name) {
            Slot::Trial { held, has_run: true, .. } => held.clone(),
            Slot::Trial { .. } | Slot::Staged(_) => return Err(Refusal::NotTried(name)),
            Slot::Empty | Slot::Confirmed(_) | Slot::Bad { .. } => return Err(Refusal::NothingInTrial),
        };
        self.security_epoch = self.security_epoch.max(held.security_epoch);
        *self.slot_mut(name) = Slot::Confirmed(held.clone());
        self.current = Some(name);
        Ok(held)
    }

    /// Gives up the bundle that is staged or in trial; without one, the current bundle for the one before it,
    /// or for the built-in one when that is below the security epoch.
    ///
    /// # Errors
    /// [`Refusal::NothingToRollBack`].
    pub fn roll_back(&mut self, reason: &str) -> Result<Held, Refusal> {
        let name = self.candidate().or(self.current).ok_or(Refusal::NothingToRollBack)?;
        let held = self.slot(name).held().cloned().ok_or(Refusal::NothingToRollBack)?;
        self.give_up(name, held.clone(), reason);
        Ok(held)
    }

    /// The bundle turned out to be bad. Whether a slot held it.
    pub fn fail(&mut self, digest: Digest, reason: &str) -> bool {
        let holder = |name: &Name| self.slot(*name).held().is_some_and(|held| held.digest == digest);
        let Some(name) = Name::ALL.into_iter().find(holder) else { return false };
        if let Some(held) = self.slot(name).held().cloned() {
            self.give_up(name, held, reason);
        }
        true
    }

    fn give_up(&mut self, name: Name, held: Held, reason: &str) {
        *self.slot_mut(name) = Slot::Bad { held, reason: reason.to_owned() };
        if self.current == Some(name) {
            let other = name.other();
            let is_usable = match self.slot(other) {
                Slot::Confirmed(held) => held.security_epoch >= self.security_epoch,
                _ => false,
            };
            self.current = is_usable.then_some(other);
        }
    }
}
