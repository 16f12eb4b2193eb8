//! Images in tar files: what is found lies inside the file, under a name that stays below it.
#![no_main]

use std::path::Path;

use adir::io::folder::is_plain;
use adir::io::limits::Limits;
use adir::io::shards::Shard;
use adir_fuzz::in_file;
use libfuzzer_sys::fuzz_target;

fn open(path: &Path) {
    let Ok(shard) = Shard::open(path) else { return };
    for member in &shard.images {
        assert!(is_plain(&member.name));
        let bytes = member.bytes(path, &Limits::default()).expect("what is found can be read");
        assert_eq!(bytes.len() as u64, member.size);
    }
}

/// The same with the checksum of every header put right.
fn sealed(input: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for header in bytes.as_chunks_mut::<512>().0 {
        if &header[257..262] == b"ustar" {
            header[148..156].fill(b' ');
            let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
            header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        }
    }
    bytes
}

fuzz_target!(|input: &[u8]| {
    in_file(input, open);
    in_file(&sealed(input), open);
});
