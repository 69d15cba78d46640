//! Values of ggml's blocks, as ggml-quants.c computes them.

use half::f16;

use crate::files::gguf::kind::Kind;
use crate::numerics::microscaling::E2M1;

/// Values of IQ4's codes, before the scale.
const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Writes the values of a row of blocks. `values` has as many as the blocks of `bytes` hold.
pub(super) fn decode(kind: Kind, bytes: &[u8], values: &mut [f32]) {
    let block = match kind {
        Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 | Kind::Q4_1 | Kind::Q5_1 => simple,
        Kind::Mxfp4 => mxfp4,
        Kind::Iq4Nl => iq4_nl,
        Kind::Iq4Xs => iq4_xs,
        Kind::Q2K => q2_k,
        Kind::Q3K => q3_k,
        Kind::Q4K => q4_k,
        Kind::Q5K => q5_k,
        Kind::Q6K => q6_k,
        Kind::Q8K => q8_k,
        // Floats stay as they are stored.
        Kind::F32 | Kind::F16 | Kind::BF16 => return,
    };
    let blocks = bytes.chunks_exact(kind.bytes()).zip(values.chunks_exact_mut(kind.block()));
    blocks.for_each(|(bytes, values)| block(kind, bytes, values));
}

/// Reads the float16 at byte `at`.
pub(super) fn half(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Writes the codes of a block of 32: of the low halves of bytes first, then of the high ones.
pub(super) fn codes(kind: Kind, bytes: &[u8], out: &mut [u8]) {
    let halves = |bytes: &[u8], out: &mut [u8]| {
        for (index, byte) in bytes.iter().enumerate() {
            (out[index], out[index + 16]) = (byte & 15, byte >> 4);
        }
    };
    let fifth = |high: &[u8], out: &mut [u8]| {
        let high = high.first_chunk().copied().map_or(0, u32::from_le_bytes);
        out.iter_mut().enumerate().for_each(|(bit, code)| *code |= ((high >> bit & 1) << 4) as u8);
    };
    match kind {
        Kind::Q4_0 | Kind::Iq4Nl => halves(&bytes[2..18], out),
        Kind::Q4_1 => halves(&bytes[4..20], out),
        Kind::Mxfp4 => halves(&bytes[1..17], out),
        Kind::Q5_0 => {
            halves(&bytes[6..22], out);
            fifth(&bytes[2..6], out);
        }
        Kind::Q5_1 => {
            halves(&bytes[8..24], out);
            fifth(&bytes[4..8], out);
        }
        Kind::Q8_0 => out.iter_mut().zip(&bytes[2..34]).for_each(|(code, byte)| *code = byte ^ 0x80),
        _ => {}
    }
}

/// Returns the code that stands for zero, of types without a minimum.
pub(super) fn middle(kind: Kind) -> Option<f32> {
    match kind {
        Kind::Q4_0 => Some(8.0),
        Kind::Q5_0 => Some(16.0),
        Kind::Q8_0 => Some(128.0),
        _ => None,
    }
}

/// Returns the numbers by which a block's codes are multiplied and shifted, as they are stored for MLX: finite in a sound file.
pub(super) fn scales(kind: Kind, bytes: &[u8]) -> [f32; 2] {
    let scale = |at| half(bytes, at);
    match kind {
        Kind::Q4_0 | Kind::Q5_0 | Kind::Q8_0 => {
            let bias = f16::from_f32(middle(kind).unwrap_or(0.0) * scale(0));
            [scale(0), bias.to_f32()]
        }
        Kind::Q4_1 | Kind::Q5_1 | Kind::Q4K | Kind::Q5K => [scale(0), scale(2)],
        Kind::Iq4Nl | Kind::Iq4Xs => [scale(0), 0.0],
        Kind::Q2K => [scale(80), scale(82)],
        Kind::Q3K => [scale(108), 0.0],
        Kind::Q6K => [scale(208), 0.0],
        Kind::Q8K => [bytes.first_chunk().copied().map_or(0.0, f32::from_le_bytes), 0.0],
        Kind::Mxfp4 => [if bytes[0] == u8::MAX { f32::NAN } else { 1.0 }, 0.0],
        Kind::F32 | Kind::F16 | Kind::BF16 => [1.0, 0.0],
    }
}

/// Decodes codes of 32 with a scale, and with a minimum or a code for zero.
fn simple(kind: Kind, bytes: &[u8], values: &mut [f32]) {
    let mut block = [0; 32];
    codes(kind, bytes, &mut block);
    let scale = half(bytes, 0);
    if let Some(middle) = middle(kind) {
        values.iter_mut().zip(block).for_each(|(v, code)| *v = (f32::from(code) - middle) * scale);
    } else {
        let minimum = half(bytes, 2);
        values.iter_mut().zip(block).for_each(|(v, code)| *v = f32::from(code) * scale + minimum);
    }
}

fn mxfp4(kind: Kind, bytes: &[u8], values: &mut [f32]) {
    let mut block = [0; 32];
    codes(kind, bytes, &mut block);
    let scale = (f32::from(bytes[0]) - 127.0).exp2();
    values.iter_mut().zip(block).for_each(|(v, code)| *v = E2M1[usize::from(code)] * scale);
}

fn iq4_nl(kind: Kind, bytes: &[u8], values: &mut [f32]) {
    let mut block = [0; 32];
    codes(kind, bytes, &mut block);
    let scale = half(bytes, 0);
    values.iter_mut().zip(block).for_each(|(v, code)| *v = scale * f32::from(IQ4[usize::from(code)]));
}

/// Scale, high bits of eight scales of 6 bits, low ones, codes.
fn iq4_xs(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let (scale, high) = (half(bytes, 0), u16::from_le_bytes([bytes[2], bytes[3]]));
    let groups = values.chunks_exact_mut(32).zip(bytes[8..].chunks_exact(16)).enumerate();
    for (group, (values, codes)) in groups {
        let low = bytes[4 + group / 2] >> (4 * (group % 2)) & 15;
        let own = i16::from(low) | ((high >> (2 * group) & 3) << 4).cast_signed();
        let scale = scale * f32::from(own - 32);
        for (index, byte) in codes.iter().enumerate() {
            values[index] = scale * f32::from(IQ4[usize::from(byte & 15)]);
            values[index + 16] = scale * f32::from(IQ4[usize::from(byte >> 4)]);
        }
    }
}

/// Sixteen bytes of scale and minimum, 64 of codes, factors of both.
fn q2_k(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let (scale, minimum) = (half(bytes, 80), half(bytes, 82));
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let own = bytes[group];
        let (scale, minimum) = (scale * f32::from(own & 15), minimum * f32::from(own >> 4));
        let (first, shift) = (16 + group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2);
        for (value, byte) in values.iter_mut().zip(&bytes[first..]) {
            *value = scale * f32::from(byte >> shift & 3) - minimum;
        }
    }
}

/// Third bits of codes, the other two, sixteen scales of 6 bits, their factor.
fn q3_k(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let (scale, scales) = (half(bytes, 108), &bytes[96..108]);
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let low = if group < 8 { scales[group] & 15 } else { scales[group - 8] >> 4 };
        let high = scales[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = scale * f32::from((low | high << 4).cast_signed() - 32);
        let (place, shift, bit) = (group % 2 * 16, group % 8 / 2 * 2, group / 2);
        let codes = bytes[32 + group / 8 * 32 + place..].iter().zip(&bytes[place..]);
        for (value, (low, high)) in values.iter_mut().zip(codes) {
            let less = if high >> bit & 1 == 1 { 0 } else { 4 };
            *value = scale * f32::from((low >> shift & 3).cast_signed() - less);
        }
    }
}

/// Reads scale and minimum of a group of 32, each of 6 bits, of the twelve bytes that eight groups share.
fn scale_and_minimum(scales: &[u8], group: usize) -> (f32, f32) {
    let (scale, minimum) = if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        let low = scales[group + 4];
        (low & 15 | scales[group - 4] >> 6 << 4, low >> 4 | scales[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// Factors of scale and minimum, these, codes.
fn q4_k(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let (scale, minimum) = (half(bytes, 0), half(bytes, 2));
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (own, least) = scale_and_minimum(&bytes[4..16], group);
        let (scale, minimum) = (scale * own, minimum * least);
        for (value, byte) in values.iter_mut().zip(&bytes[16 + group / 2 * 32..]) {
            *value = scale * f32::from(byte >> (group % 2 * 4) & 15) - minimum;
        }
    }
}

/// Factors of scale and minimum, these, fifth bits of codes, the other four.
fn q5_k(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let (scale, minimum) = (half(bytes, 0), half(bytes, 2));
    for (group, values) in values.chunks_exact_mut(32).enumerate() {
        let (own, least) = scale_and_minimum(&bytes[4..16], group);
        let (scale, minimum) = (scale * own, minimum * least);
        let codes = bytes[48 + group / 2 * 32..].iter().zip(&bytes[16..48]);
        for (value, (low, high)) in values.iter_mut().zip(codes) {
            let code = low >> (group % 2 * 4) & 15 | (high >> group & 1) << 4;
            *value = scale * f32::from(code) - minimum;
        }
    }
}

/// Low four bits of codes, high two, sixteen scales, their factor.
fn q6_k(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let scale = half(bytes, 208);
    for (group, values) in values.chunks_exact_mut(16).enumerate() {
        let scale = scale * f32::from(bytes[192 + group].cast_signed());
        // Of 128 values the first 64 are the low halves of bytes.
        let (side, quarter, place) = (group / 8, group % 8 / 2, group % 2 * 16);
        let low = &bytes[side * 64 + quarter % 2 * 32 + place..];
        let high = &bytes[128 + side * 32 + place..];
        for (value, (low, high)) in values.iter_mut().zip(low.iter().zip(high)) {
            let code = low >> (quarter / 2 * 4) & 15 | (high >> (quarter * 2) & 3) << 4;
            *value = scale * f32::from(code.cast_signed() - 32);
        }
    }
}

/// Scale of 32 bits, codes, and sums that nobody needs.
fn q8_k(_: Kind, bytes: &[u8], values: &mut [f32]) {
    let scale = bytes.first_chunk().copied().map_or(0.0, f32::from_le_bytes);
    values
        .iter_mut()
        .zip(&bytes[4..260])
        .for_each(|(value, byte)| *value = scale * f32::from(byte.cast_signed()));
}
