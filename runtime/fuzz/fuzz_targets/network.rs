#![no_main]

libfuzzer_sys::fuzz_target!(
    // libFuzzer's hook would end the run at a panic in tract that Candor contains.
    init: std::panic::set_hook(Box::new(|_| {})),
    |bytes: &[u8]| candor::fuzzing::network(bytes)
);
