//! Begins a frame anew with another id and more attributes, its body left as it is.

use bytes::{BufMut, BytesMut};
use finback_core::frame::{Edit, Head, Kind};

use crate::call;
use crate::map;
use crate::wire::{Fixed, MAX_SHORT, Version};

/// Does what [`Codec::encode`](finback_core::codec::Codec::encode) wants, for frames of no more
/// than `max_frame` bytes.
///
/// Attributes that would make the header or the frame too long, and those for a frame whose
/// header is not SOFA-RPC's, are left out: the call goes on without them.
pub(crate) fn encode(
    head: &Head,
    wire: &[u8],
    edit: &Edit<'_>,
    max_frame: usize,
    out: &mut BytesMut,
) -> usize {
    let version = Version::of_variant(head.variant);
    // Mostly another id is all, and the head tells where it stands.
    if edit.attributes.is_empty()
        && version != Version::V2Checked
        && let Some(before) = wire.get(..version.id_at())
    {
        out.put_slice(before);
        out.put_u32(edit.id as u32);
        return wire.len().min(before.len() + 4);
    }
    let Some(fixed) = Fixed::of_head(head, wire).or_else(|| Fixed::of_whole(wire)) else {
        return 0;
    };
    let start = out.len();
    let id = (edit.id as u32).to_be_bytes();
    let id_at = fixed.version.id_at();
    let done = if edit.attributes.is_empty() || !put_attributes(&fixed, wire, edit, max_frame, out)
    {
        if fixed.id.to_be_bytes() == id {
            return 0;
        }
        out.put_slice(&wire[..id_at + 4]);
        id_at + 4
    } else {
        fixed.content_at
    };
    out[start + id_at..start + id_at + 4].copy_from_slice(&id);
    if !fixed.checked {
        return done;
    }
    // The checksum stands last, so the whole frame is begun anew.
    out.put_slice(&wire[done..fixed.content_end]);
    let sum = crc32fast::hash(&out[start..]);
    out.put_u32(sum);
    wire.len()
}

/// Appends everything up to the content with the attributes in the header map; false, and
/// nothing appended, where that cannot be.
fn put_attributes(
    fixed: &Fixed,
    wire: &[u8],
    edit: &Edit<'_>,
    max_frame: usize,
    out: &mut BytesMut,
) -> bool {
    if !matches!(fixed.kind, Kind::Request | Kind::OneWay) || !call::is_editable(fixed, wire) {
        return false;
    }
    let start = out.len();
    out.put_slice(&wire[..fixed.header_at]);
    let map_at = out.len();
    let map = &wire[fixed.header_at..fixed.content_at];
    let written = map::put_edited(map, edit.attributes, out);
    let map_len = out.len() - map_at;
    let grown = fixed
        .len()
        .saturating_add(map_len)
        .saturating_sub(map.len());
    if written.is_err() || map_len > MAX_SHORT || grown > max_frame {
        out.truncate(start);
        return false;
    }
    let len_at = start + fixed.header_len_at();
    out[len_at..len_at + 2].copy_from_slice(&(map_len as u16).to_be_bytes());
    true
}
