//! Safetensors files; and inputs that are a header, before which its length is put and after it as much data as the
//! first byte says.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    adir_fuzz::read_weights(input);
    // A length that fits, which mutation seldom finds.
    let Some((&data, header)) = input.split_first() else { return };
    let data = vec![0x3c; usize::from(data)];
    adir_fuzz::read_weights(&[&(header.len() as u64).to_le_bytes(), header, &data].concat());
});
