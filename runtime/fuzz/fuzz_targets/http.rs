#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| candor::fuzzing::http(bytes));
