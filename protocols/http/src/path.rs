//! Paths in their normal form (RFC 3986, section 6.2.2), so that one path has one spelling where routes
//! look at it, and where the endpoint does.

use std::borrow::Cow;

use http::Uri;
use http::uri::PathAndQuery;

/// Puts a target's path into its normal form; false if it has none.
pub(crate) fn normalize(uri: &mut Uri) -> bool {
    let Cow::Owned(path) = normal(uri.path()) else {
        return true;
    };
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = std::mem::take(uri).into_parts();
    parts.path_and_query = PathAndQuery::from_maybe_shared(bytes::Bytes::from(target)).ok();
    match Uri::from_parts(parts) {
        Ok(own) => {
            *uri = own;
            true
        }
        Err(_) => false,
    }
}

/// A path without dots for segments, without empty segments in its middle, and with characters that
/// need no escape standing for themselves. Other escapes stay: `%2F` is no slash.
fn normal(path: &str) -> Cow<'_, str> {
    if !path.starts_with('/') || is_normal(path.as_bytes()) {
        return Cow::Borrowed(path);
    }
    let plain = unescaped(path);
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in plain.split('/').skip(1) {
        // What a path ends with that names no segment of its own leaves a slash.
        ends_open = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            // RFC 3986, section 5.2.4: above the root is the root.
            ".." => drop(segments.pop()),
            own => segments.push(own),
        }
    }
    let mut all = String::with_capacity(plain.len());
    for segment in &segments {
        all.push('/');
        all.push_str(segment);
    }
    if ends_open || segments.is_empty() {
        all.push('/');
    }
    if all == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(all)
    }
}

/// Whether there is nothing to do, which is nearly always so.
fn is_normal(path: &[u8]) -> bool {
    // Without a way out in their middle, both looks are done many bytes at a time.
    let odd = path
        .iter()
        .fold(false, |odd, byte| odd | matches!(byte, b'%' | b'\\'));
    let follows = path.get(1..).unwrap_or_default();
    let pairs = path.iter().zip(follows);
    let dotted = pairs.fold(false, |odd, (first, second)| {
        odd | ((*first == b'/') & matches!(second, b'/' | b'.'))
    });
    !(odd | dotted)
}

/// A path in which escapes of unreserved characters are undone (RFC 3986, section 2.3), once. A
/// backslash, which no URI has, is what most take it for.
fn unescaped(path: &str) -> String {
    let mut plain = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        plain.push_str(&rest[..at]);
        let odd = &rest[at..];
        let code = odd.get(1..3).filter(|_| odd.starts_with('%'));
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        let length = match code.map(char::from) {
            Some(own) if own.is_ascii_alphanumeric() || "-._~".contains(own) => {
                plain.push(own);
                3
            }
            _ if odd.starts_with('\\') => {
                plain.push('/');
                1
            }
            _ => {
                plain.push('%');
                1
            }
        };
        rest = &odd[length..];
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    #[test]
    fn one_path_has_one_spelling() {
        for (path, wanted) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a.b/.c/..d/e..", "/a.b/.c/..d/e.."),
            ("//admin", "/admin"),
            ("/a///b//", "/a/b/"),
            ("/x/../admin", "/admin"),
            ("/../../admin", "/admin"),
            ("/a/./b", "/a/b"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/..", "/a/"),
            ("/..", "/"),
            ("/a//../b", "/b"),
            ("/%61dmin", "/admin"),
            ("/x/%2e%2E/admin", "/admin"),
            ("/x/.%2e/admin", "/admin"),
            ("/%7Euser/%2D%5f", "/~user/-_"),
            ("/a%2fb", "/a%2fb"),
            ("/a%2Fb%20%C3%A9", "/a%2Fb%20%C3%A9"),
            ("/..%2fadmin", "/..%2fadmin"),
            ("/%252e%252e/x", "/%252e%252e/x"),
            ("/a%zz%4", "/a%zz%4"),
            ("/a%+1b", "/a%+1b"),
            ("/x\\..\\admin", "/admin"),
            ("*", "*"),
            ("", ""),
        ] {
            assert_eq!(normal(path), wanted, "{path}");
            // Once is enough.
            assert_eq!(normal(&normal(path)), wanted, "{path}");
        }
    }

    #[test]
    fn the_rest_of_a_target_stays() {
        for (target, wanted) in [
            ("/x/../y?a=/../%61", "/y?a=/../%61"),
            ("http://a:80//y?", "http://a:80/y?"),
            ("/y?a//b", "/y?a//b"),
        ] {
            let mut uri: Uri = target.parse().unwrap();
            assert!(normalize(&mut uri));
            assert_eq!(uri.to_string(), wanted);
        }
        let mut uri: Uri = "a:80".parse().unwrap();
        assert!(normalize(&mut uri));
        assert_eq!(uri, "a:80");
    }
}
