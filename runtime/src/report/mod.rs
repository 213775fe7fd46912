//! What a scan hands to people and programs.

pub mod annotate;
mod avc;
pub mod draw;

pub mod faces;
pub mod heat;
pub mod json;
pub mod live;
mod movie;
mod sparkline;
mod strip;
pub mod table;
mod text;

pub use sparkline::sparkline;
pub use strip::contact_strip;
