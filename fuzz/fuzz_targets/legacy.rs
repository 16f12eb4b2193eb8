//! The stream that PyTorch wrote before it wrote zip archives.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|input: &[u8]| -> Corpus {
    if !input.starts_with(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.") {
        return Corpus::Reject;
    }
    adir_fuzz::read_weights(input);
    Corpus::Keep
});
