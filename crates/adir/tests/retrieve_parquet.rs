//! Parquet files as pyarrow writes them (tests/fixtures/retrieve/parquet.py).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use adir::Error;
use adir::retrieve::{read_parquet_names, read_parquet_vectors};
use parquet::data_type::{ByteArray, ByteArrayType, FloatType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/retrieve").join(name)
}

#[test]
fn reads_what_pyarrow_wrote() {
    let names = read_parquet_names(&file("embeddings.parquet"), "image_path", 7).unwrap();
    assert_eq!(names, (0..7).map(|i| format!("photos/{i:02}.jpg")).collect::<Vec<_>>());
    // (arange(21) - 10) / 8
    let values: Vec<f32> = (0..21).map(|i| (i as f32 - 10.0) / 8.0).collect();
    for name in ["embeddings.parquet", "embeddings_f64.parquet"] {
        assert_eq!(read_parquet_vectors(&file(name), "embedding").unwrap(), (7, 3, values.clone()), "{name}");
    }
}

#[test]
fn refuses_what_it_does_not_read() {
    let texts = |name: &str, column: &str| read_parquet_names(&file(name), column, 7).unwrap_err().to_string();
    let vectors = |name: &str, column: &str| read_parquet_vectors(&file(name), column).unwrap_err().to_string();
    for (message, hint) in [
        (texts("embeddings.parquet", "path"), "image_path, caption, embedding"),
        (texts("embeddings.parquet", "caption"), "nothing in row 0"),
        (texts("embeddings.parquet", "embedding"), "a list in row 0"),
        (vectors("embeddings.parquet", "image_path"), "a text in row 0"),
        (vectors("embeddings_ragged.parquet", "embedding"), "1 numbers in row 1, but 2 in"),
        (texts("embeddings_zstd.parquet", "image_path"), "zstd"),
        (texts("parquet.py", "image_path"), "Parquet"),
        (texts("nowhere.parquet", "image_path"), "nowhere"),
    ] {
        assert!(message.contains(hint), "{hint}: {message}");
    }
}

/// Dictionaries and runs make small files of any number of values: those are counted before they are read.
#[test]
fn columns_larger_than_they_can_be_are_refused_unread() {
    let path = std::env::temp_dir().join(format!("adir-parquet-bomb-{}.parquet", std::process::id()));
    let schema = "message m { required binary image_path (STRING);
        required group embedding (LIST) { repeated group list { required float element; } } }";
    let rows = 3_000_000;
    let levels: Vec<i16> = (0..rows).map(|_| 0).collect();
    let mut writer = SerializedFileWriter::new(
        fs::File::create(&path).unwrap(),
        Arc::new(parse_message_type(schema).unwrap()),
        Default::default(),
    )
    .unwrap();
    let mut group = writer.next_row_group().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&vec![ByteArray::from("a.png"); rows], None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<FloatType>().write_batch(&vec![0.5; rows], Some(&vec![1; rows]), Some(&levels)).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    assert!(fs::metadata(&path).unwrap().len() < 100_000);

    let start = Instant::now();
    let names = |count| read_parquet_names(&path, "image_path", count).unwrap_err().to_string();
    assert!(names(3).contains("3000000 names for 3 embeddings"), "{}", names(3));
    assert!(names(rows).contains("declares 3000000 values"), "{}", names(rows));
    let vectors = read_parquet_vectors(&path, "embedding").unwrap_err().to_string();
    assert!(vectors.contains("declares 3000000 values"), "{vectors}");
    assert!(start.elapsed().as_millis() < 200, "{:?}", start.elapsed());
    fs::remove_file(&path).unwrap();
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
            [read_parquet_names(&path, "image_path", 7).map(drop), read_parquet_vectors(&path, "embedding").map(drop)]
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
