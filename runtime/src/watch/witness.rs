//! Who looks on, in the thread that watches: they see pixels, which no queue could hold.

use std::sync::Arc;

use image::RgbImage;

use super::Event;
use super::event::Health;
use crate::bundle::Manifest;
use crate::follow::Sighting;
use crate::gallery::Sample;

/// Looks on while frames are looked at. What it does costs the watching's time; it must not wait.
pub trait Witness {
    /// Whether [`Witness::looked`] is wanted now.
    fn wants_pictures(&self) -> bool {
        false
    }

    /// A frame was searched.
    fn looked(&mut self, _looked: &Looked<'_>) {}

    /// Another model judges from here on.
    fn model_changed(&mut self, _manifest: &Manifest) {}

    /// Other settings hold from here on; all of them, TOML.
    fn settings_changed(&mut self, _settings: &str) {}

    /// A face has another verdict, or its last one.
    fn judged(&mut self, _judged: &Judged<'_>) {}

    /// Whether [`Witness::pulse`] is wanted.
    fn wants_pulse(&self) -> bool {
        false
    }

    /// The watching goes on: about once a second, whether or not frames come. Rates are since the last time.
    fn pulse(&mut self, _health: &Health) {}
}

/// A frame that was searched.
#[derive(Debug)]
pub struct Looked<'a> {
    /// Its picture, upright.
    pub picture: &'a RgbImage,
    /// Who is in it, without scores.
    pub faces: &'a [Sighting],
}

/// A verdict, and what it rests on.
#[derive(Debug)]
pub struct Judged<'a> {
    /// The verdict: [`super::event::What::RunningVerdict`] or [`super::event::What::Verdict`].
    pub event: &'a Arc<Event>,
    /// The scores that it rests on, oldest first.
    pub scores: &'a [f32],
    /// Looks with their scores, oldest first: those of a last verdict, or the newest of a running one.
    pub samples: &'a [Sample],
}
