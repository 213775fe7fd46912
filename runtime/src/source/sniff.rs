//! Tells a file's kind from its first bytes; names are never trusted.

/// Bytes that [`identify`] wants to see; two packets of an MPEG transport stream and a little more.
pub(super) const HEAD_BYTES: usize = 400;

/// What the first bytes announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// ISO base media: MP4, MOV.
    IsoMedia,
    /// RIFF AVI.
    Avi,
    /// YUV4MPEG2.
    Y4m,
    /// JPEG.
    Jpeg,
    /// PNG.
    Png,
    /// Something known by name and not built in.
    Foreign(&'static str),
    /// Nothing known.
    Unknown,
}

/// Kinds that are known by bytes at the very start.
const PREFIXES: &[(&[u8], Kind)] = &[
    (b"YUV4MPEG2", Kind::Y4m),
    (b"\xff\xd8\xff", Kind::Jpeg),
    (b"\x89PNG\r\n\x1a\n", Kind::Png),
    (b"GIF87a", Kind::Foreign("GIF")),
    (b"GIF89a", Kind::Foreign("GIF")),
    (b"FLV\x01", Kind::Foreign("Flash video (FLV)")),
    (b"OggS", Kind::Foreign("Ogg")),
    (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", Kind::Foreign("Windows Media (ASF, WMV)")),
    (b".RMF", Kind::Foreign("RealMedia")),
    (b"DKIF", Kind::Foreign("IVF")),
    (b"\x06\x0e\x2b\x34\x02\x05\x01\x01", Kind::Foreign("MXF")),
    (b"\x00\x00\x01\xba", Kind::Foreign("MPEG program stream")),
    (b"\x00\x00\x01\xb3", Kind::Foreign("raw MPEG-1 or MPEG-2 video")),
    (b"\x00\x00\x01\xb0", Kind::Foreign("raw MPEG-4 Part 2 video")),
    (b"\x00\x00\x00\x0cJXL \r\n", Kind::Foreign("JPEG XL")),
    (b"\xff\x0a", Kind::Foreign("JPEG XL")),
    (b"\x00\x00\x00\x0cjP  \r\n", Kind::Foreign("JPEG 2000")),
    (b"II*\0", Kind::Foreign("TIFF")),
    (b"MM\0*", Kind::Foreign("TIFF")),
    (b"8BPS", Kind::Foreign("Photoshop document")),
    (b"%PDF-", Kind::Foreign("PDF")),
    (b"PK\x03\x04", Kind::Foreign("a ZIP archive")),
    (b"\x1f\x8b", Kind::Foreign("gzip")),
];

/// The kind of the file that begins with `head` (up to [`HEAD_BYTES`] of it).
pub(super) fn identify(head: &[u8]) -> Kind {
    if let Some((_, kind)) = PREFIXES.iter().find(|(prefix, _)| head.starts_with(prefix)) {
        return *kind;
    }
    let tag = |at: usize| head.get(at..at + 4).unwrap_or_default();
    match (tag(0), tag(8)) {
        (b"RIFF", b"AVI ") => return Kind::Avi,
        (b"RIFF", b"WEBP") => return Kind::Foreign("WebP"),
        (b"RIFF" | b"RF64", b"WAVE") => return Kind::Foreign("WAV, which has no picture"),
        (b"\x1a\x45\xdf\xa3", _) if contains(head, b"webm") => return Kind::Foreign("WebM"),
        (b"\x1a\x45\xdf\xa3", _) => return Kind::Foreign("Matroska (MKV)"),
        _ => {}
    }
    match tag(4) {
        b"ftyp" => return iso_brand(tag(8)),
        b"moov" | b"mdat" | b"wide" | b"free" | b"skip" => return Kind::IsoMedia,
        _ => {}
    }
    let sync = |at: usize| head.get(at) == Some(&0x47);
    if (sync(0) && sync(188)) || (sync(4) && sync(196)) {
        return Kind::Foreign("MPEG transport stream");
    }
    annex_b(head).or_else(|| bitmap(head)).map_or(Kind::Unknown, Kind::Foreign)
}

/// Still pictures share the `ftyp` box with films (ISO/IEC 23008-12, AV1 Image File Format).
fn iso_brand(brand: &[u8]) -> Kind {
    match brand {
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"mif1" | b"msf1" => {
            Kind::Foreign("HEIC")
        }
        b"avif" | b"avis" => Kind::Foreign("AVIF"),
        _ => Kind::IsoMedia,
    }
}

/// Raw H.264 or H.265: a start code and a NAL unit that may come first in a stream.
fn annex_b(head: &[u8]) -> Option<&'static str> {
    let nal = head.strip_prefix(b"\0\0\0\x01").or_else(|| head.strip_prefix(b"\0\0\x01"))?;
    match nal {
        [0x40 | 0x46, 0x01, ..] => Some("raw H.265"),
        [header, ..] if header & 0x80 == 0 && matches!(header & 0x1f, 6 | 7 | 9) => Some("raw H.264"),
        _ => None,
    }
}

/// BMP's two letters alone are too common in text: its reserved words must be 0 as well.
fn bitmap(head: &[u8]) -> Option<&'static str> {
    (head.starts_with(b"BM") && head.get(6..10) == Some(&[0; 4])).then_some("BMP")
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle)
}

/// The first bytes in words, for an error about bytes of no known kind.
pub(super) fn describe_unknown(head: &[u8]) -> String {
    let first = &head[..head.len().min(16)];
    if first.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
        return format!("text that begins {:?}", String::from_utf8_lossy(first));
    }
    let hex: Vec<String> = first.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("an unknown format (first bytes {})", hex.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_by_their_first_bytes() {
        let mut transport = vec![0u8; HEAD_BYTES];
        (transport[0], transport[188]) = (0x47, 0x47);
        let cases: [(&[u8], Kind); 12] = [
            (b"RIFF\0\0\0\0AVI LIST", Kind::Avi),
            (b"RIFF\0\0\0\0WEBPVP8 ", Kind::Foreign("WebP")),
            (b"\0\0\0\x18ftypisom\0\0\0\0", Kind::IsoMedia),
            (b"\0\0\0\x18ftypheic\0\0\0\0", Kind::Foreign("HEIC")),
            (b"\0\0\0\x08wide\0\0\0\0mdat", Kind::IsoMedia),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x84webm", Kind::Foreign("WebM")),
            (b"\x1a\x45\xdf\xa3\x9f\x42\x82\x88matroska", Kind::Foreign("Matroska (MKV)")),
            (b"\0\0\0\x01\x67\x64", Kind::Foreign("raw H.264")),
            (b"\0\0\x01\x40\x01\x0c", Kind::Foreign("raw H.265")),
            (b"BMW is a car", Kind::Unknown),
            (b"", Kind::Unknown),
            (&transport, Kind::Foreign("MPEG transport stream")),
        ];
        for (head, kind) in cases {
            assert_eq!(identify(head), kind, "{:?}", String::from_utf8_lossy(head));
        }
    }
}
