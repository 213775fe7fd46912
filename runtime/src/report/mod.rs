//! What a scan hands to people and programs.

pub mod annotate;
mod avc;
pub mod draw;
mod movie;
mod sparkline;
mod strip;
mod text;

pub use sparkline::sparkline;
pub use strip::contact_strip;
