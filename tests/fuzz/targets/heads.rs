#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| quorate::fuzzed::heads(bytes));
