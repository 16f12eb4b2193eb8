//! Zip archives that claim to be PyTorch checkpoints.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: &[u8]| -> Corpus {
    if !input.starts_with(b"PK\x03\x04") {
        return Corpus::Reject;
    }
    adir_fuzz::read_weights(input);
    Corpus::Keep
});
