//! TensorBoard's event files: protobuf messages in TFRecord frames, written from the published formats.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

/// `tensorflow.Event`, as far as scalars need it.
#[derive(Clone, PartialEq, Message)]
struct Event {
    /// Seconds since 1970.
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `SessionLog.START`: what an earlier file says of this and later steps no longer holds.
const SESSION_START: i32 = 1;

/// An event file that is being written.
pub struct Events {
    file: File,
}

impl Events {
    /// Starts a file in `folder`. TensorBoard reads the folder's files in the order of their names; `first_step` takes
    /// back what an earlier run wrote from there on, as a resumed one repeats it.
    ///
    /// # Errors
    /// The system's.
    pub fn create(folder: &Path, first_step: u64) -> io::Result<Self> {
        let seconds = now().as_secs();
        let file = (0..u32::MAX)
            .map(|n| format!("events.out.tfevents.{seconds:010}.{n:05}.candor"))
            .find_map(|name| match File::create_new(folder.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
                outcome => Some(outcome),
            });
        let file = file.unwrap_or_else(|| Err(io::Error::from(io::ErrorKind::AlreadyExists)))?;
        let mut events = Events { file };
        events.write(0, What::FileVersion("brain.Event:2".into()))?;
        if first_step > 0 {
            events.write(first_step, What::SessionLog(SessionLog { status: SESSION_START }))?;
        }
        Ok(events)
    }

    /// Writes scalars of one step.
    ///
    /// # Errors
    /// The system's.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> io::Result<()> {
        #[allow(clippy::cast_possible_truncation, reason = "the format's scalars are f32")]
        let value = scalars.iter().map(|&(tag, v)| Value { tag: tag.into(), simple_value: v as f32 });
        self.write(step, What::Summary(Summary { value: value.collect() }))
    }

    fn write(&mut self, step: u64, what: What) -> io::Result<()> {
        let step = i64::try_from(step).map_err(io::Error::other)?;
        let event = Event { wall_time: now().as_secs_f64(), step, what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec()))
    }
}

/// A TFRecord: length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes; all little-endian.
fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length), bytes, &masked_crc(bytes)].concat()
}

fn masked_crc(bytes: &[u8]) -> [u8; 4] {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes()
}

fn now() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
