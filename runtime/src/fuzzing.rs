//! One function for each parser of outside bytes: fuzz targets and the corpus test call the same ones.
//!
//! A function takes any bytes at all and must return: no panic, no endless loop, no unbounded memory.

use std::io::Cursor;

use crate::bundle::{Manifest, PublicKey, Roots, UnverifiedBundle, UnverifiedChannel};
use crate::config::Config;
use crate::dashboard::guard::Guard;
use crate::dashboard::http::{MAX_BODY, MAX_HEAD, Request};
use crate::engine::Engine;
use crate::evidence::entry::Entry;
use crate::outlet;
use crate::preprocess::color::to_rgb;
use crate::source::{self, AviSource, FrameSource, Mp4Source, SourceError, StillSource, Y4mSource};

/// Takes any bytes.
pub type Parse = fn(&[u8]);

/// The parsers, by the names of their fuzz targets and corpus folders.
pub const TARGETS: &[(&str, Parse)] = &[
    ("avi", avi),
    ("bundle", bundle),
    ("channel", channel),
    ("config", config),
    ("evidence", evidence),
    ("h264", h264),
    ("http", http),
    ("manifest", manifest),
    ("mp4", mp4),
    ("mqtt", mqtt),
    ("network", network),
    ("stills", stills),
    ("y4m", y4m),
];

/// Frames that are read of one input; later ones take the same way.
const MAX_FRAMES: usize = 64;

/// AVI with Motion JPEG.
pub fn avi(bytes: &[u8]) {
    drain(AviSource::new(Cursor::new(bytes), "fuzz"));
}

/// The root key that signs the bundle and channel targets' seeds: the public key of 32 bytes of 1.
pub const BUNDLE_ROOT: &str = "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c";

/// A signed bundle.
pub fn bundle(bytes: &[u8]) {
    let Ok(roots) = BUNDLE_ROOT.parse::<PublicKey>().and_then(|key| Roots::new(vec![key], 1)) else { return };
    let verified = UnverifiedBundle::read(bytes).and_then(|bundle| bundle.verify(&roots, None, Some(0)));
    if let Ok(bundle) = verified {
        assert!(!bundle.signers().is_empty(), "nothing is trusted without a signer");
        let mut copy = Vec::new();
        if bundle.copy(&mut copy).is_ok() {
            assert!(copy == bytes, "what is taken is copied as it is");
        }
    }
}

/// A channel's file.
pub fn channel(bytes: &[u8]) {
    let Ok(roots) = BUNDLE_ROOT.parse::<PublicKey>().and_then(|key| Roots::new(vec![key], 1)) else { return };
    let Ok(file) = UnverifiedChannel::read(bytes) else { return };
    let Ok(listed) = file.check_list(&roots, None) else { return };
    if let Ok(verified) = listed.verify(0) {
        assert!(!verified.signers.is_empty(), "nothing is trusted without a signer");
        let mut copy = Vec::new();
        assert!(listed.file.write(&mut copy).is_ok() && copy == bytes, "what is taken is written as it is");
    }
}

/// The configuration file.
pub fn config(bytes: &[u8]) {
    if let Ok(config) = Config::from_toml(&String::from_utf8_lossy(bytes)) {
        assert!(config.check().is_ok(), "what was taken keeps to its ranges");
    }
}

/// A line of an evidence log.
pub fn evidence(bytes: &[u8]) {
    let Ok(line) = std::str::from_utf8(bytes) else { return };
    if let Ok(entry) = Entry::read(line, None) {
        assert!(entry.n < u64::MAX, "another entry can follow");
    }
}

/// H.264 access units behind an avcC record: the decoder without a container that would have to be whole.
pub fn h264(bytes: &[u8]) {
    source::feed_h264(bytes);
}

/// A client's requests to the dashboard, and whether they are served at all.
pub fn http(bytes: &[u8]) {
    let Ok(guard) = Guard::new(None, &["candor.local".to_owned()]) else { return };
    let mut rest = bytes;
    while let Ok(Some((request, n_head))) = Request::parse(rest) {
        assert!((1..=MAX_HEAD.min(rest.len())).contains(&n_head) && request.n_body <= MAX_BODY);
        assert_eq!(
            Request::parse(&rest[..n_head]),
            Ok(Some((request.clone(), n_head))),
            "what follows counts"
        );
        assert_eq!(Request::parse(&rest[..n_head - 1]), Ok(None), "it was whole before its end");
        let _ = (guard.is_host(&request), Guard::is_from_elsewhere(&request), request.asked("after"));
        rest = rest.get(n_head + request.n_body..).unwrap_or_default();
    }
}

/// MP4 and QuickTime with H.264.
pub fn mp4(bytes: &[u8]) {
    drain(Mp4Source::from_reader(Cursor::new(bytes), "fuzz"));
}

/// What an MQTT broker answers.
pub fn mqtt(bytes: &[u8]) {
    outlet::feed_mqtt(bytes);
}

/// A bundle's manifest.
pub fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::from_json(bytes) {
        let rules = manifest.rules();
        assert!(rules.real_below <= rules.fake_above, "thresholds in order");
    }
}

/// A neural network for a small picture.
pub fn network(bytes: &[u8]) {
    let shape = [1, 3, 8, 8];
    match Engine::default().load("fuzz", bytes, &shape) {
        Ok(mut model) => {
            let n_outputs = model.output_shapes().len();
            if let Ok(outputs) = model.run(&[0.0; 192]) {
                assert_eq!(outputs.len(), n_outputs, "every output is there");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// JPEG and PNG.
pub fn stills(bytes: &[u8]) {
    drain(StillSource::new(bytes, "fuzz"));
}

/// YUV4MPEG2.
pub fn y4m(bytes: &[u8]) {
    drain(Y4mSource::new(bytes, "fuzz", u64::try_from(bytes.len()).ok()));
}

/// Reads a source's frames and checks what every frame must be.
fn drain(opened: Result<impl FrameSource, SourceError>) {
    let mut source = match opened {
        Ok(source) => source,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    let mut last_pts_ns = None;
    for _ in 0..MAX_FRAMES {
        let Ok(Some(frame)) = source.next_frame() else { break };
        assert!(last_pts_ns <= Some(frame.pts_ns), "time must not run backwards");
        last_pts_ns = Some(frame.pts_ns);
        let rgb = to_rgb(&frame).map(|rgb| rgb.dimensions());
        assert_eq!(rgb, Ok(frame.upright_size_px()));
    }
}
