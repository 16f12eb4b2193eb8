//! Parquet files as pyarrow writes them (tests/fixtures/retrieve/parquet.py).

use std::fs;
use std::path::{Path, PathBuf};

use adir::Error;
use adir::retrieve::{read_parquet_texts, read_parquet_vectors};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/retrieve").join(name)
}

#[test]
fn reads_what_pyarrow_wrote() {
    let names = read_parquet_texts(&file("embeddings.parquet"), "image_path").unwrap();
    assert_eq!(names, (0..7).map(|i| format!("photos/{i:02}.jpg")).collect::<Vec<_>>());
    // (arange(21) - 10) / 8
    let values: Vec<f32> = (0..21).map(|i| (i as f32 - 10.0) / 8.0).collect();
    for name in ["embeddings.parquet", "embeddings_f64.parquet"] {
        assert_eq!(read_parquet_vectors(&file(name), "embedding").unwrap(), (7, 3, values.clone()), "{name}");
    }
}

#[test]
fn refuses_what_it_does_not_read() {
    let texts = |name: &str, column: &str| read_parquet_texts(&file(name), column).unwrap_err().to_string();
    let vectors = |name: &str, column: &str| read_parquet_vectors(&file(name), column).unwrap_err().to_string();
    for (message, hint) in [
        (texts("embeddings.parquet", "path"), "image_path, caption, embedding"),
        (texts("embeddings.parquet", "caption"), "nothing in row 0"),
        (texts("embeddings.parquet", "embedding"), "a list in row 0"),
        (vectors("embeddings.parquet", "image_path"), "a text in row 0"),
        (vectors("embeddings_ragged.parquet", "embedding"), "1 numbers in row 1, 2 in"),
        (texts("embeddings_zstd.parquet", "image_path"), "zstd"),
        (texts("parquet.py", "image_path"), "Parquet"),
        (texts("nowhere.parquet", "image_path"), "nowhere"),
    ] {
        assert!(message.contains(hint), "{hint}: {message}");
    }
}

/// Whatever is damaged, cut or overwritten: an error or the values, never a panic.
#[test]
fn damaged_files_are_refused_without_a_panic() {
    let whole = fs::read(file("embeddings.parquet")).unwrap();
    let path = std::env::temp_dir().join(format!("adir-parquet-{}.parquet", std::process::id()));
    let mut refused = 0;
    let mut check = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        for result in
            [read_parquet_texts(&path, "image_path").map(drop), read_parquet_vectors(&path, "embedding").map(drop)]
        {
            match result {
                Ok(()) => {}
                Err(Error::Input { .. }) => refused += 1,
                Err(e) => panic!("{e}"),
            }
        }
    };
    for length in 0..whole.len() {
        check(&whole[..length]);
    }
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            check(&bytes);
        }
    }
    fs::remove_file(&path).unwrap();
    assert!(refused > 2 * whole.len(), "{refused}");
}
