//! Indexes of archives: as they are, and with the checksum put right, so that what it covers is looked at. What is
//! accepted comes back the same from the file that it is saved to.
#![no_main]

use std::path::Path;

use adir::retrieve::Index;
use adir_fuzz::in_file;
use libfuzzer_sys::fuzz_target;

fn open(path: &Path) {
    let Ok(index) = Index::open(path) else { return };
    for id in 0..index.entries().len() {
        let vector = index.vector(id).expect("a vector for every entry");
        assert_eq!(vector.len(), index.encoder().dimension);
        assert!(index.embedding(id).is_some() && index.file(id).is_some());
    }
    // An archive's folder may be one that cannot be written down.
    if index.save(path).is_ok() {
        let again = Index::open(path).expect("what was saved is read");
        assert_eq!((again.entries(), again.encoder()), (index.entries(), index.encoder()));
        assert!((0..again.entries().len()).all(|id| again.vector(id) == index.vector(id)));
    }
}

fuzz_target!(|input: &[u8]| {
    in_file(input, open);
    if let Some((body, _)) = input.split_last_chunk::<4>() {
        in_file(&[body, &crc32fast::hash(body).to_le_bytes()].concat(), open);
    }
});
