//! The program `adir`.

fn main() {}
