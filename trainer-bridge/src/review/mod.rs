//! A person looks at the faces of a dataset and says which don't belong.

pub mod decisions;
