//! Replays the fuzz corpora: what was once a finding must stay none.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use candor::fuzzing::TARGETS;

#[test]
fn every_input_is_taken_or_refused() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    for (target, parse) in TARGETS {
        let mut n_inputs = 0;
        for entry in std::fs::read_dir(fuzz.join("corpus").join(target)).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            parse(&bytes);
            n_inputs += 1;
        }
        assert!(n_inputs > 0, "{target} has no corpus");
        assert!(fuzz.join("fuzz_targets").join(format!("{target}.rs")).is_file(), "{target} has no target");
    }
}
