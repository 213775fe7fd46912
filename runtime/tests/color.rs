//! Conversion to RGB against the definition in floating point and against ffmpeg.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use candor::frame::{ColorMatrix, ColorRange, Frame, PixelFormat, Plane, Rotation};
use candor::preprocess::color::{to_rgb, to_rgb_into};
use image::RgbImage;
use proptest::prelude::{Strategy, any, prop_assert, proptest};
use proptest::{prop_oneof, strategy::Just};

#[path = "support/compare.rs"]
mod compare;
#[path = "support/ffmpeg.rs"]
mod ffmpeg;

/// How many pixels share a chroma sample, across and down.
fn shared(format: PixelFormat) -> (u32, u32) {
    match format {
        PixelFormat::I420 => (2, 2),
        PixelFormat::I422 => (2, 1),
        _ => (1, 1),
    }
}

/// A frame of noise whose rows are `padding` bytes apart, from a small generator of its own. Its codes
/// are such as both ranges have.
fn noise(format: PixelFormat, width_px: u32, height_px: u32, padding: usize, mut seed: u32) -> Frame {
    let mut next = move || {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        16 + u8::try_from((seed >> 24) * 220 / 256).unwrap()
    };
    let planes = format
        .plane_sizes(width_px, height_px)
        .into_iter()
        .map(|(n_rows, row_bytes)| {
            let stride_bytes = row_bytes + padding;
            Plane { samples: (0..stride_bytes * n_rows - padding).map(|_| next()).collect(), stride_bytes }
        })
        .collect();
    Frame {
        width_px,
        height_px,
        format,
        planes,
        matrix: ColorMatrix::Bt601,
        range: ColorRange::Limited,
        rotation: Rotation::None,
        pts_ns: 0,
        frame_idx: 0,
    }
}

/// R'G'B' of one pixel by ITU-T H.273, 8.3: E'Y and E'Pb, E'Pr from codes, then the matrix's inverse.
fn definition(frame: &Frame, x: u32, y: u32) -> [f64; 3] {
    let at = |plane: usize, x: u32, y: u32| {
        let plane = &frame.planes[plane];
        f64::from(plane.samples[y as usize * plane.stride_bytes + x as usize])
    };
    if frame.format == PixelFormat::Rgb24 {
        return [0, 1, 2].map(|channel| at(0, x * 3 + channel, y));
    }
    let (offset, luma_span, chroma_span) = match frame.range {
        ColorRange::Limited => (16.0, 219.0, 224.0),
        ColorRange::Full => (0.0, 255.0, 255.0),
    };
    let luma = (at(0, x, y) - offset) / luma_span;
    let (across, down) = shared(frame.format);
    let chroma = |plane| match frame.format {
        PixelFormat::Gray => 0.0,
        _ => (at(plane, x / across, y / down) - 128.0) / chroma_span,
    };
    let (blue, red) = (chroma(1), chroma(2));
    let (kr, kb) = match frame.matrix {
        ColorMatrix::Bt601 => (0.299, 0.114),
        ColorMatrix::Bt709 => (0.2126, 0.0722),
        ColorMatrix::Bt2020 => (0.2627, 0.0593),
    };
    let r = luma + 2.0 * (1.0 - kr) * red;
    let b = luma + 2.0 * (1.0 - kb) * blue;
    let g = (luma - kr * r - kb * b) / (1.0 - kr - kb);
    [r, g, b].map(|v| (v * 255.0).clamp(0.0, 255.0))
}

/// Where the stored pixel (x, y) stands in the upright picture.
fn turned(frame: &Frame, x: u32, y: u32) -> (u32, u32) {
    let (w, h) = (frame.width_px, frame.height_px);
    match frame.rotation {
        Rotation::None => (x, y),
        Rotation::Cw90 => (h - 1 - y, x),
        Rotation::Cw180 => (w - 1 - x, h - 1 - y),
        Rotation::Cw270 => (y, w - 1 - x),
    }
}

/// The largest distance from the definition.
fn worst(frame: &Frame, rgb: &RgbImage) -> f64 {
    assert_eq!(rgb.dimensions(), frame.upright_size_px());
    let pixels = (0..frame.height_px).flat_map(|y| (0..frame.width_px).map(move |x| (x, y)));
    pixels
        .flat_map(|(x, y)| {
            let (right, down) = turned(frame, x, y);
            let ours = rgb.get_pixel(right, down).0;
            let exact = definition(frame, x, y);
            [0, 1, 2].map(|channel| (f64::from(ours[channel]) - exact[channel]).abs())
        })
        .fold(0.0, f64::max)
}

const FORMATS: [PixelFormat; 5] =
    [PixelFormat::I420, PixelFormat::I422, PixelFormat::I444, PixelFormat::Gray, PixelFormat::Rgb24];
const MATRICES: [ColorMatrix; 3] = [ColorMatrix::Bt601, ColorMatrix::Bt709, ColorMatrix::Bt2020];
const RANGES: [ColorRange; 2] = [ColorRange::Limited, ColorRange::Full];
const ROTATIONS: [Rotation; 4] = [Rotation::None, Rotation::Cw90, Rotation::Cw180, Rotation::Cw270];

#[test]
fn every_format_matrix_and_range_keeps_to_the_definition() {
    let mut largest = 0.0f64;
    for format in FORMATS {
        for matrix in MATRICES {
            for range in RANGES {
                let frame = Frame { matrix, range, ..noise(format, 333, 67, 5, 1) };
                let off = worst(&frame, &to_rgb(&frame).unwrap());
                assert!(off <= 1.5, "{format:?} {matrix:?} {range:?}: {off} of 255 off");
                largest = largest.max(off);
            }
        }
    }
    println!("at most {largest:.3} of 255 from the definition");
}

/// Where luma is outside 16..=235, faster code takes it for black or white before chroma is added, which
/// is as far off as the definition's own clamping lets it be. It must not wrap round.
#[test]
fn codes_outside_the_range_are_clamped() {
    for format in FORMATS {
        for matrix in MATRICES {
            let mut frame = Frame { matrix, ..noise(format, 333, 67, 5, 1) };
            frame.planes[0].samples.iter_mut().step_by(2).for_each(|sample| *sample = sample.wrapping_mul(7));
            let off = worst(&frame, &to_rgb(&frame).unwrap());
            assert!(off <= 25.0, "{format:?} {matrix:?}: {off} of 255 off");
        }
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    let format = prop_oneof![
        Just(FORMATS[0]),
        Just(FORMATS[1]),
        Just(FORMATS[2]),
        Just(FORMATS[3]),
        Just(FORMATS[4]),
    ];
    (format, 1..70u32, 1..70u32, 0..9usize, any::<u32>(), 0..3usize, 0..2usize, 0..4usize).prop_map(
        |(format, width_px, height_px, padding, seed, matrix, range, rotation)| Frame {
            matrix: MATRICES[matrix],
            range: RANGES[range],
            rotation: ROTATIONS[rotation],
            ..noise(format, width_px, height_px, padding, seed)
        },
    )
}

proptest! {
    #[test]
    fn odd_sizes_strides_and_turns_keep_to_the_definition(frame in any_frame()) {
        let mut rgb = RgbImage::new(5, 200);
        to_rgb_into(&frame, &mut rgb).unwrap();
        let off = worst(&frame, &rgb);
        prop_assert!(off <= 1.5, "{off} of 255 off");
    }

    #[test]
    fn planes_that_are_too_short_are_refused(frame in any_frame(), plane_idx in 0..3usize, n_cut in 1..9usize) {
        let mut frame = frame;
        let plane_idx = plane_idx % frame.planes.len();
        let samples = &mut frame.planes[plane_idx].samples;
        samples.truncate(samples.len().saturating_sub(n_cut));
        prop_assert!(to_rgb(&frame).is_err());
    }
}

#[test]
fn the_buffer_is_used_again() {
    let frame = noise(PixelFormat::I420, 64, 48, 0, 1);
    let mut rgb = to_rgb(&frame).unwrap();
    let at = rgb.as_ptr();
    to_rgb_into(&Frame { rotation: Rotation::Cw90, ..frame }, &mut rgb).unwrap();
    assert_eq!((rgb.as_ptr(), rgb.dimensions()), (at, (48, 64)));
}

#[test]
fn colours_are_those_of_ffmpeg() {
    let Some(ffmpeg) = ffmpeg::find() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frame.yuv");
    for (matrix, matrix_name) in [(ColorMatrix::Bt601, "bt601"), (ColorMatrix::Bt709, "bt709")] {
        for (range, range_name) in [(ColorRange::Limited, "tv"), (ColorRange::Full, "pc")] {
            // 4:4:4, so that no chroma filter comes in.
            let frame = Frame { matrix, range, ..noise(PixelFormat::I444, 128, 96, 0, 7) };
            let planes: Vec<u8> = frame.planes.iter().flat_map(|plane| plane.samples.clone()).collect();
            std::fs::write(&path, planes).unwrap();
            let scale = format!(
                "scale=in_color_matrix={matrix_name}:in_range={range_name}:out_range=pc:\
                 flags=accurate_rnd+full_chroma_int+bitexact"
            );
            let raw = ["-f", "rawvideo", "-pix_fmt", "yuv444p", "-s", "128x96", "-i", path.to_str().unwrap()];
            let out = ["-vf", &scale, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"];
            let expected = ffmpeg::run(&ffmpeg, raw.iter().chain(&out));
            let (max, psnr_db) = compare::distance(&to_rgb(&frame).unwrap(), &expected);
            println!("{matrix_name} {range_name}: at most {max} of 255 off, {psnr_db:.1} dB");
            assert!(max <= 2 && psnr_db >= 50.0, "{matrix_name} {range_name}: {max} off, {psnr_db:.1} dB");
        }
    }
}
