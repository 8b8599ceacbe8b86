#![no_main]

libfuzzer_sys::fuzz_target!(
    init: reheat_fuzz::let_caught_panics_pass(),
    |data: &[u8]| reheat_fuzz::readers(data)
);
