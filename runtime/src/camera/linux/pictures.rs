//! Formats of pictures as the kernel's structures, and back.

use v4l::v4l_sys as sys;

use crate::camera::kernel::{MAX_PLANES, PictureFormat, PlaneFormat};

/// Says that the extended fields of `v4l2_pix_format` are filled in (`V4L2_PIX_FMT_PRIV_MAGIC`).
const HAS_EXTENDED_FIELDS: u32 = 0xfeed_cafe;

pub(super) fn to_single(wanted: &PictureFormat) -> sys::v4l2_pix_format {
    let mut pix = sys::v4l2_pix_format {
        width: wanted.width_px,
        height: wanted.height_px,
        pixelformat: wanted.fourcc,
        field: sys::v4l2_field_V4L2_FIELD_NONE,
        bytesperline: 0,
        sizeimage: 0,
        colorspace: wanted.colorspace,
        priv_: HAS_EXTENDED_FIELDS,
        flags: 0,
        __bindgen_anon_1: sys::v4l2_pix_format__bindgen_ty_1 { ycbcr_enc: wanted.ycbcr_encoding },
        quantization: wanted.quantization,
        xfer_func: 0,
    };
    if let Some(plane) = wanted.planes.first() {
        (pix.bytesperline, pix.sizeimage) = (plane.stride_bytes, plane.size_bytes);
    }
    pix
}

pub(super) fn from_single(pix: &sys::v4l2_pix_format) -> PictureFormat {
    let is_extended = pix.priv_ == HAS_EXTENDED_FIELDS;
    // SAFETY: both members are the same number.
    let encoding = unsafe { pix.__bindgen_anon_1.ycbcr_enc };
    let plane = PlaneFormat { stride_bytes: pix.bytesperline, size_bytes: pix.sizeimage };
    PictureFormat {
        width_px: pix.width,
        height_px: pix.height,
        fourcc: pix.pixelformat,
        colorspace: pix.colorspace,
        ycbcr_encoding: if is_extended { encoding } else { 0 },
        quantization: if is_extended { pix.quantization } else { 0 },
        planes: std::iter::once(plane).collect(),
    }
}

pub(super) fn to_multi(wanted: &PictureFormat) -> sys::v4l2_pix_format_mplane {
    let byte = |n: u32| u8::try_from(n).unwrap_or(0);
    let none = sys::v4l2_plane_pix_format { sizeimage: 0, bytesperline: 0, reserved: [0; 6] };
    let mut plane_fmt = [none; MAX_PLANES];
    for (to, from) in plane_fmt.iter_mut().zip(&wanted.planes) {
        (to.sizeimage, to.bytesperline) = (from.size_bytes, from.stride_bytes);
    }
    sys::v4l2_pix_format_mplane {
        width: wanted.width_px,
        height: wanted.height_px,
        pixelformat: wanted.fourcc,
        field: sys::v4l2_field_V4L2_FIELD_NONE,
        colorspace: wanted.colorspace,
        plane_fmt,
        num_planes: u8::try_from(wanted.planes.len()).unwrap_or(0),
        flags: 0,
        __bindgen_anon_1: sys::v4l2_pix_format_mplane__bindgen_ty_1 {
            ycbcr_enc: byte(wanted.ycbcr_encoding),
        },
        quantization: byte(wanted.quantization),
        xfer_func: 0,
        reserved: [0; 7],
    }
}

pub(super) fn from_multi(pix: &sys::v4l2_pix_format_mplane) -> PictureFormat {
    // SAFETY: both members are the same number.
    let encoding = unsafe { pix.__bindgen_anon_1.ycbcr_enc };
    // The structure is packed: its fields are copied out.
    let planes = pix.plane_fmt;
    let to_plane = |p: &sys::v4l2_plane_pix_format| PlaneFormat {
        stride_bytes: p.bytesperline,
        size_bytes: p.sizeimage,
    };
    PictureFormat {
        width_px: pix.width,
        height_px: pix.height,
        fourcc: pix.pixelformat,
        colorspace: pix.colorspace,
        ycbcr_encoding: encoding.into(),
        quantization: pix.quantization.into(),
        planes: planes.iter().take(usize::from(pix.num_planes)).map(to_plane).collect(),
    }
}
