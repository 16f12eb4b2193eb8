//! NumPy's arrays. What is accepted has as many values as it says.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let read = adir_weights::npy::from_reader(Path::new("fuzz"), input, input.len() as u64);
    if let Ok((rows, columns, values)) = read {
        assert_eq!(rows.checked_mul(columns), Some(values.len()));
    }
});
