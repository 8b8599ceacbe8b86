#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| reheat_fuzz::templates(data));
