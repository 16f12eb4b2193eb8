//! Files: the only module that touches paths.
