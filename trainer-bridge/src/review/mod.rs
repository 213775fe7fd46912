//! A person looks at the faces of a dataset and says which don't belong: a web page on this machine.

pub mod command;
pub mod decisions;
pub mod server;
pub mod sheet;
