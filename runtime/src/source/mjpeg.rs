//! One frame of Motion JPEG: one JPEG, or two that hold the fields of an interlaced picture.

use super::jpeg::{self, Header, JpegError};
use crate::frame::{Frame, Plane};

/// Decodes a frame whose container promises `height_px` rows (0: unknown); time and index are 0.
///
/// # Errors
/// [`JpegError`] also where [`jpeg::decode`] would guess pixels: a video has other frames to judge.
pub(super) fn decode(bytes: &[u8], height_px: u32) -> Result<Frame, JpegError> {
    let first = decode_whole(bytes)?;
    // The same test as ffmpeg's: fields are half as high as the container says.
    let is_field = first.height_px < height_px / 4 * 3;
    let Some(second_bytes) = after_first_picture(bytes).filter(|_| is_field) else { return Ok(first) };
    let second = decode_whole(second_bytes)?;
    if (second.width_px, second.height_px, second.format) != (first.width_px, first.height_px, first.format) {
        let expected = format!("a second field of {}x{}", first.width_px, first.height_px);
        let found = format!("{}x{}", second.width_px, second.height_px);
        return Err(JpegError { expected, found });
    }
    // A stream that says nothing has the lower field first, as ffmpeg takes it.
    let is_upper_first = Header::parse(bytes)?.field == 1;
    Ok(if is_upper_first { weave(first, &second) } else { weave(second, &first) })
}

fn decode_whole(bytes: &[u8]) -> Result<Frame, JpegError> {
    let picture = jpeg::decode(bytes)?;
    match picture.damage {
        None => Ok(picture.frame),
        Some(found) => Err(JpegError { expected: "a whole JPEG".to_owned(), found }),
    }
}

/// What follows the first end-of-image marker, from the next start-of-image marker on.
fn after_first_picture(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.windows(2).position(|pair| pair == [0xff, 0xd9])?;
    let rest = &bytes[end + 2..];
    let start = rest.windows(3).position(|marks| marks == [0xff, 0xd8, 0xff])?;
    Some(&rest[start..])
}

/// Rows of `upper` and `lower` by turns, `upper`'s first.
fn weave(upper: Frame, lower: &Frame) -> Frame {
    let weave_plane = |(a, b): (&Plane, &Plane)| {
        let rows = a.samples.chunks_exact(a.stride_bytes).zip(b.samples.chunks_exact(b.stride_bytes));
        Plane {
            samples: rows.flat_map(|(a, b)| [a, b]).flatten().copied().collect(),
            stride_bytes: a.stride_bytes,
        }
    };
    let planes = upper.planes.iter().zip(&lower.planes).map(weave_plane).collect();
    Frame { height_px: upper.height_px * 2, planes, ..upper }
}
