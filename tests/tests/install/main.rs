//! The package on Debian with systemd as process 1: machines are what they claim to be,
//! and the package keeps its promises on one of them.

mod machine;
mod operate;
mod package;
