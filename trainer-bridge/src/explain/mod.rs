//! Heat maps of trained networks: whether they point at what is fake.

pub mod command;
pub mod pointing;
mod subject;

pub use self::subject::{Subject, SubjectError};
