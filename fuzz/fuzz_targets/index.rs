//! Indexes of archives: as they are, and with the checksums put right, so that what they cover is looked at. What is
//! accepted comes back the same from the file that it is saved to, in memory or in its file.
#![no_main]

use std::path::Path;

use adir::encode::Embedding;
use adir::retrieve::{Exclude, Index};
use adir_fuzz::in_file;
use libfuzzer_sys::fuzz_target;

fn open(path: &Path) {
    in_its_file(path);
    let Ok(index) = Index::open(path) else { return };
    for id in 0..index.len() {
        let vector = index.vector(id).expect("a vector for every entry");
        assert_eq!(vector.len(), index.encoder().dimension);
        assert!(index.embedding(id).is_ok() && index.file(id).is_ok());
    }
    // An archive's folder may be one that cannot be written down.
    if index.save(path).is_ok() {
        for again in [Index::open(path), Index::open_within(path, 0)] {
            let again = again.expect("what was saved is read");
            assert_eq!(again.entries().unwrap(), index.entries().unwrap());
            assert_eq!(again.encoder(), index.encoder());
            assert!((0..again.len()).all(|id| again.vector(id).unwrap() == index.vector(id).unwrap()));
        }
    }
}

/// Nothing that is asked of a damaged file panics.
fn in_its_file(path: &Path) {
    let Ok(index) = Index::open_within(path, 0) else { return };
    let _ = index.entries();
    for id in 0..index.len().min(300) {
        let _ = (index.entry(id), index.vector(id));
    }
    let dimension = index.encoder().dimension;
    if dimension < 10_000
        && let Ok(query) = Embedding::new(index.encoder().clone(), vec![1.0; dimension])
    {
        let _ = index.nearest(&query, 3, &Exclude { closer_than: 0.5, content: None });
    }
}

fuzz_target!(|input: &[u8]| {
    in_file(input, open);
    // Before format 4 the checksum is at the end.
    if let Some((body, _)) = input.split_last_chunk::<4>() {
        in_file(&[body, &crc32fast::hash(body).to_le_bytes()].concat(), open);
    }
    // From then on the header has its own.
    if let Some(length) = input.get(12..16).map(|length| u32::from_le_bytes(length.try_into().expect("4 bytes"))) {
        let end = 16_usize.saturating_add(length as usize);
        if let (Some(header), Some(rest)) = (input.get(..end), input.get(end.saturating_add(4)..)) {
            in_file(&[header, &crc32fast::hash(header).to_le_bytes(), rest].concat(), open);
        }
    }
});
