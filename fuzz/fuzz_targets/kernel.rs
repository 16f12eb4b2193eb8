//! Blur kernels: short names, text, and images of them. A name that is accepted is read again from how it is shown; what
//! a file holds has as many values as it says.
#![no_main]

use adir::io::limits::Limits;
use adir::io::side_inputs::read_kernel_values;
use adir::operator::{Kernel, KernelSpec};
use adir_fuzz::in_file;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    if let Ok(text) = std::str::from_utf8(input) {
        if let Ok(spec) = text.parse::<KernelSpec>() {
            assert_eq!(spec.to_string().parse::<KernelSpec>().ok(), Some(spec));
        }
        if let Ok(kernel) = Kernel::from_text(text) {
            assert!(kernel.height() > 0 && kernel.width() > 0);
        }
    }
    let limits = Limits { max_decoded_bytes: 16 << 20, ..Limits::default() };
    if let Ok(read) = in_file(input, |path| read_kernel_values(path, &limits)) {
        assert_eq!(read.values.len(), read.height * read.width);
        assert!(!read.values.is_empty());
        let _ = Kernel::from_values(read.height, read.width, read.values);
    }
});
