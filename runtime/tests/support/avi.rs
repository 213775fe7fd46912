//! Writes AVI files chunk by chunk, the odd ones too.

/// A chunk with its padding.
pub(crate) fn chunk(id: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let n_bytes = u32::try_from(payload.len()).unwrap();
    let mut chunk = [&id[..], &n_bytes.to_le_bytes(), payload].concat();
    chunk.resize(chunk.len().next_multiple_of(2), 0);
    chunk
}

/// A LIST or RIFF of ready chunks.
pub(crate) fn list(id: &[u8; 4], kind: &[u8; 4], chunks: &[Vec<u8>]) -> Vec<u8> {
    chunk(id, &[&kind[..], &chunks.concat()].concat())
}

/// The header list of one Motion JPEG stream at 25 frames a second, behind an audio stream where
/// `is_second`.
pub(crate) fn headers(width_px: u32, height_px: u32, n_frames: u32, is_second: bool) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
    let n_streams = if is_second { 2 } else { 1 };
    let avih = words(&[40_000, 0, 0, 0x10, n_frames, 0, n_streams, 0, width_px, height_px, 0, 0, 0, 0]);
    let stream_header = |kind: &[u8; 4], handler: &[u8; 4], times: [u32; 4]| {
        let [scale, rate, start, length] = times;
        let tail = words(&[0, 0, 0, scale, rate, start, length, 0, u32::MAX, 0, 0, 0]);
        [&kind[..], handler, &tail].concat()
    };
    let video = list(
        b"LIST",
        b"strl",
        &[
            chunk(b"strh", &stream_header(b"vids", b"MJPG", [1, 25, 0, n_frames])),
            chunk(
                b"strf",
                &words(&[40, width_px, height_px, 1 | 24 << 16, u32::from_le_bytes(*b"MJPG"), 0, 0, 0, 0, 0]),
            ),
        ],
    );
    let audio = list(
        b"LIST",
        b"strl",
        &[
            chunk(b"strh", &stream_header(b"auds", &[0; 4], [1, 8000, 0, 0])),
            chunk(b"strf", &words(&[1 | 1 << 16, 8000, 8000, 1 | 8 << 16])),
        ],
    );
    let mut parts = vec![chunk(b"avih", &avih)];
    if is_second {
        parts.push(audio);
    }
    parts.push(video);
    list(b"LIST", b"hdrl", &parts)
}

/// A plain file of one stream.
pub(crate) fn file(width_px: u32, height_px: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = packets.iter().map(|packet| chunk(b"00dc", packet)).collect();
    let n_frames = u32::try_from(packets.len()).unwrap();
    list(b"RIFF", b"AVI ", &[headers(width_px, height_px, n_frames, false), list(b"LIST", b"movi", &frames)])
}

/// The frames of a plain file.
pub(crate) fn packets(avi: &[u8]) -> Vec<Vec<u8>> {
    let mut at = avi.windows(4).position(|id| id == b"movi").unwrap() + 4;
    let mut packets = vec![];
    while avi.get(at..at + 4) == Some(b"00dc") {
        let n_bytes = u32::from_le_bytes(avi[at + 4..at + 8].try_into().unwrap()) as usize;
        packets.push(avi[at + 8..at + 8 + n_bytes].to_vec());
        at += 8 + n_bytes.next_multiple_of(2);
    }
    packets
}
