//! The slots' state machine under any sequence of steps.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use candor::bundle::Digest;
use candor::slot::{Boot, Held, Name, Slot, Slots};
use proptest::prelude::*;

/// Something that happens to the slots.
#[derive(Clone, Debug)]
enum Step {
    Stage(u8, u32),
    Boot,
    RanWell(u8),
    Confirm,
    RollBack,
    Fail(u8),
}

fn held(model: u8, security_epoch: u32) -> Held {
    Held {
        digest: Digest::of(&[model]),
        id: "m".into(),
        version: model.to_string(),
        security_epoch,
        signers: Vec::new(),
    }
}

fn steps() -> impl Strategy<Value = Step> {
    let model = 0u8..4;
    prop_oneof![
        (model.clone(), 0u32..3).prop_map(|(model, epoch)| Step::Stage(model, epoch)),
        Just(Step::Boot),
        model.clone().prop_map(Step::RanWell),
        Just(Step::Confirm),
        Just(Step::RollBack),
        model.prop_map(Step::Fail),
    ]
}

fn is_candidate(slot: &Slot) -> bool {
    matches!(slot, Slot::Staged(_) | Slot::Trial { .. })
}

proptest! {
    #[test]
    fn any_sequence_keeps_the_rules(sequence in prop::collection::vec(steps(), 1..60)) {
        let mut slots = Slots::default();
        for step in sequence {
            let before = slots.clone();
            let epoch = slots.security_epoch();
            let refused = match &step {
                // Admission refuses a lower epoch before it comes to this.
                Step::Stage(_, below) if *below < epoch => continue,
                Step::Stage(model, epoch) => slots.stage(held(*model, *epoch)).is_err(),
                Step::Boot => {
                    let (boot, failed) = slots.boot(2);
                    let was_tried = Name::ALL.map(|n| is_candidate(before.slot(n))).contains(&true);
                    prop_assert_eq!(matches!(boot, Boot::Trial(_)) || failed.is_some(), was_tried);
                    prop_assert_eq!(&boot, &before.next_boot(), "status says what a start does");
                    false
                }
                Step::RanWell(model) => !slots.ran_well(Digest::of(&[*model])),
                Step::Confirm => slots.confirm().is_err(),
                Step::RollBack => slots.roll_back("test").is_err(),
                Step::Fail(model) => !slots.fail(Digest::of(&[*model]), "test"),
            };
            if refused {
                prop_assert_eq!(&slots, &before, "a step that is refused changes nothing");
            }
            let n_candidates = Name::ALL.iter().filter(|n| is_candidate(slots.slot(**n))).count();
            prop_assert!(n_candidates <= 1);
            if let Some(current) = slots.current() {
                prop_assert!(matches!(slots.slot(current), Slot::Confirmed(_)));
            }
            prop_assert!(slots.security_epoch() >= epoch, "the epoch never falls");
            // A rollback leads to nothing below the epoch; only what ran at the time may be.
            if slots.current() != before.current() && let Boot::Confirmed(held) = slots.without_trial() {
                prop_assert!(held.security_epoch >= slots.security_epoch());
            }
        }
    }
}

#[test]
fn a_trial_has_as_many_failing_starts_as_it_was_given() {
    let mut slots = Slots::default();
    slots.stage(held(1, 0)).unwrap();
    for _ in 0..2 {
        assert!(matches!(slots.boot(2).0, Boot::Trial(_)));
    }
    // The second run ends well after all.
    assert!(slots.ran_well(Digest::of(&[1])));
    assert!(matches!(slots.boot(2).0, Boot::Trial(_)));
    let (boot, failed) = slots.boot(2);
    assert_eq!((boot, failed.unwrap().0), (Boot::Floor, held(1, 0)));
    assert!(matches!(slots.slot(Name::A), Slot::Bad { .. }));
}
