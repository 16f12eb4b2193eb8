//! The kernels against the definitions, and the definitions against central differences.

mod attention;
mod common;
mod conv2d;
mod finite_differences;
mod group_norm;
mod join;
mod low_rank;
mod machine;
mod narrow;
mod norm_conv;
mod resample;
mod tokens;
mod update;
