//! Checks of a numpy array's header before npyz parses it: npyz multiplies the sizes of any shape, and its parser calls
//! itself for every bracket.

/// Bytes of the longest header that numpy itself reads.
const MAX_HEADER_BYTES: usize = 10_000;
/// Most brackets inside one another; a shape in its dictionary is two.
const MAX_DEPTH: usize = 16;

/// Returns the reason not to parse the array that begins with `bytes`, if there is one. Bytes that are no array at all
/// are left for npyz to refuse.
pub(crate) fn refusal(bytes: &[u8]) -> Option<String> {
    let version = *bytes.strip_prefix(b"\x93NUMPY")?.first()?;
    let rest = bytes.get(8..)?;
    let (length, rest) = if version == 1 {
        let (length, rest) = rest.split_first_chunk()?;
        (usize::from(u16::from_le_bytes(*length)), rest)
    } else {
        let (length, rest) = rest.split_first_chunk()?;
        (u32::from_le_bytes(*length) as usize, rest)
    };
    if length > MAX_HEADER_BYTES {
        return Some(format!("its header has {length} bytes, that of an array {MAX_HEADER_BYTES} at most"));
    }
    let header = String::from_utf8_lossy(rest.get(..length)?);
    let depth = header.bytes().scan(0_usize, |depth, byte| {
        match byte {
            b'(' | b'[' | b'{' => *depth += 1,
            b')' | b']' | b'}' => *depth = depth.saturating_sub(1),
            _ => {}
        }
        Some(*depth)
    });
    if depth.max() > Some(MAX_DEPTH) {
        return Some("its header has too many brackets inside one another".to_owned());
    }
    let shape = header.split_once("shape")?.1.split_once('(')?.1.split_once(')')?.0;
    let sizes = shape.split(',').filter_map(|size| size.trim().parse::<u64>().ok());
    // No dtype has larger items than the rest of the range allows; an empty axis makes the others no smaller.
    let product = sizes.map(|size| size.max(1)).try_fold(1_u64, u64::checked_mul);
    product.is_none().then(|| format!("an impossible shape, ({shape})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn npy(version: u8, header: &str) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY".to_vec();
        bytes.extend([version, 0]);
        if version == 1 {
            bytes.extend((header.len() as u16).to_le_bytes());
        } else {
            bytes.extend((header.len() as u32).to_le_bytes());
        }
        bytes.extend(header.bytes());
        bytes
    }

    #[track_caller]
    fn refused(header: &str, expected: &str) {
        for version in [1, 2, 3] {
            let refusal = refusal(&npy(version, header)).unwrap_or_default();
            assert!(refusal.contains(expected), "{version}: {refusal}");
        }
    }

    #[test]
    fn shapes_whose_product_overflows_are_refused() {
        refused("{'shape': (4294967296, 4294967296), }", "an impossible shape, (4294967296, 4294967296)");
        refused("{'shape': (0, 4294967296, 4294967296), }", "an impossible shape");
    }

    #[test]
    fn headers_that_fill_the_stack_are_refused() {
        refused(&"(".repeat(5000), "brackets");
        refused(&" ".repeat(20_000), "its header has 20000 bytes");
    }

    #[test]
    fn other_headers_are_left_to_the_parser() {
        for header in
            ["{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", "{'shape': (0,)}", "(", ""]
        {
            assert_eq!(refusal(&npy(1, header)), None);
        }
        for bytes in [&b""[..], b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff", b"\x93NUMPY\x01\x00\xff\x01{"] {
            assert_eq!(refusal(bytes), None);
        }
    }
}
