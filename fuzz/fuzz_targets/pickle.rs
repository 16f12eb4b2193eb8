//! Pickles, in an archive that has the storages "0" and "1".
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|pickle: &[u8]| {
    let storages = [[0x3c; 256], [0x01; 256]];
    let [a, b] = &storages;
    adir_fuzz::read_weights(&adir_fuzz::archive(&[("a/data.pkl", pickle), ("a/data/0", a), ("a/data/1", b)]));
});
