//! Archives and pickles made by hand, as PyTorch would write them or worse.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::io::Write;
use std::path::{Path, PathBuf};

use adir_weights::{Error, WeightFile};
use flate2::Compression;
use flate2::write::DeflateEncoder;

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// An entry of an archive.
#[derive(Debug, Clone)]
pub struct Entry {
    pub name: String,
    /// As it lies in the file.
    pub bytes: Vec<u8>,
    /// 0 for bytes as they are, 8 for DEFLATE.
    pub method: u16,
    pub len: u32,
    pub crc: u32,
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

pub fn stored(name: &str, content: &[u8]) -> Entry {
    let (len, crc) = (content.len() as u32, crc(content));
    Entry { name: name.to_owned(), bytes: content.to_vec(), method: 0, len, crc }
}

pub fn deflated(name: &str, content: &[u8]) -> Entry {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).unwrap();
    Entry { bytes: encoder.finish().unwrap(), method: 8, ..stored(name, content) }
}

/// A zip archive.
pub fn zip(entries: &[Entry]) -> Vec<u8> {
    let (mut data, mut directory) = (Vec::new(), Vec::new());
    for Entry { name, bytes, method, len, crc } in entries {
        let offset = (data.len() as u32).to_le_bytes();
        let mut header = [0; 26];
        header[4..6].copy_from_slice(&method.to_le_bytes());
        header[10..14].copy_from_slice(&crc.to_le_bytes());
        header[14..18].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
        header[18..22].copy_from_slice(&len.to_le_bytes());
        header[22..24].copy_from_slice(&(name.len() as u16).to_le_bytes());
        data.extend([b"PK\x03\x04", &header[..], name.as_bytes(), bytes].concat());
        let central = [&header[..24], &[0; 12], &offset].concat();
        directory.extend([b"PK\x01\x02\0\0", &central[..], name.as_bytes()].concat());
    }
    let mut end = [0; 18];
    end[4..6].copy_from_slice(&(entries.len() as u16).to_le_bytes());
    end[6..8].copy_from_slice(&(entries.len() as u16).to_le_bytes());
    end[8..12].copy_from_slice(&(directory.len() as u32).to_le_bytes());
    end[12..16].copy_from_slice(&(data.len() as u32).to_le_bytes());
    [&data[..], &directory, b"PK\x05\x06", &end].concat()
}

/// A checkpoint of this pickle and one storage "0" of six f32 values, 0 to 5.
pub fn with_pickle(pickle: &[u8]) -> Vec<u8> {
    let data: Vec<u8> = (0..6).flat_map(|v| (v as f32).to_le_bytes()).collect();
    zip(&[stored("a/data.pkl", pickle), stored("a/data/0", &data)])
}

/// Opens [`with_pickle`].
pub fn open(pickle: &[u8]) -> Result<WeightFile, Error> {
    WeightFile::from_bytes("crafted", with_pickle(pickle))
}

/// An integer below 2^63 in a pickle.
pub fn integer(value: u64) -> Vec<u8> {
    [b"\x8a\x08", &value.to_le_bytes()[..]].concat()
}

/// A text in a pickle.
pub fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// The instructions for a storage of f32, which declares `len` elements.
pub fn storage(key: &str, len: &[u8]) -> Vec<u8> {
    [b"(X\x07\0\0\0storagectorch\nFloatStorage\n", &text(key)[..], b"X\x03\0\0\0cpu", len, b"tQ"].concat()
}

/// The instructions for a tensor over such a storage; `view` are those for offset, shape and strides.
pub fn tensor_of(storage: &[u8], view: &[u8]) -> Vec<u8> {
    [b"ctorch._utils\n_rebuild_tensor_v2\n(", storage, view, b"\x89ccollections\nOrderedDict\n)RtR"].concat()
}

/// A tensor over storage "0", which declares `len` elements.
pub fn tensor(len: &[u8], view: &[u8]) -> Vec<u8> {
    tensor_of(&storage("0", len), view)
}

/// Offset, shape and strides.
pub fn view(first: u64, shape: &[u64], strides: &[u64]) -> Vec<u8> {
    let tuple =
        |values: &[u64]| [b"(", &values.iter().flat_map(|v| integer(*v)).collect::<Vec<_>>()[..], b"t"].concat();
    [integer(first), tuple(shape), tuple(strides)].concat()
}

/// A pickle of a dictionary.
pub fn dictionary(items: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = items.iter().flat_map(|(name, value)| [&text(name)[..], value, b"s"].concat()).collect();
    [b"\x80\x02}", &items[..], b"."].concat()
}
