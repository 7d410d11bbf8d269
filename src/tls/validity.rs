//! When a certificate ends.
//!
//! rustls checks the validity of what a peer shows and keeps it to itself, and a whole parser of X.509 for one date is
//! much; so the few members before it are stepped over here (RFC 5280, section 4.1; X.690 for the encoding).

use crate::model::Time;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// The end of what has none (RFC 5280, section 4.1.2.5).
const NEVER: &[u8] = b"99991231235959Z";
/// `[0]`, the version where it is not the first.
const VERSION: u8 = 0xa0;

/// `notAfter` of a certificate in DER; `None` when there is none where it should be.
pub(super) fn not_after(certificate: &[u8]) -> Option<Time> {
    let (certificate, _) = take(certificate, SEQUENCE)?;
    let (mut body, _) = take(certificate, SEQUENCE)?;
    if let Some((_, rest)) = take(body, VERSION) {
        body = rest;
    }
    // The serial number, the signature's algorithm, the issuer.
    for tag in [INTEGER, SEQUENCE, SEQUENCE] {
        (_, body) = take(body, tag)?;
    }
    let (validity, _) = take(body, SEQUENCE)?;
    let (_, not_after) = time(validity)?;
    time(not_after).map(|(time, _)| time)
}

/// The content of the element that a text begins with, if it has this tag, and what follows it.
fn take(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&[found, first], rest) = der.split_first_chunk::<2>()?;
    if found != tag {
        return None;
    }
    // Below 128 the length itself; else how many bytes tell it.
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    rest.split_at_checked(length)
}

/// The time that a text begins with, and what follows it. In DER there are two forms, both in UTC and to the second.
fn time(der: &[u8]) -> Option<(Time, &[u8])> {
    let (text, rest, century) = match take(der, UTC_TIME) {
        // Two digits of the year: 50 and above are of the last century.
        Some((text, rest)) => (text, rest, if text.first()? >= &b'5' { "19" } else { "20" }),
        None => {
            let (text, rest) = take(der, GENERALIZED_TIME)?;
            (text, rest, "")
        }
    };
    if text == NEVER {
        return Some((Time::from_millis(i64::MAX), rest));
    }
    let text = format!("{century}{}", std::str::from_utf8(text).ok()?);
    let digits = text.strip_suffix('Z').filter(|digits| digits.len() == 14 && digits.is_ascii())?;
    let (date, clock) = digits.split_at(8);
    let (year, month, day) = (date.get(..4)?, date.get(4..6)?, date.get(6..)?);
    let (hour, minute, second) = (clock.get(..2)?, clock.get(2..4)?, clock.get(4..)?);
    Some((format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z").parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A certificate's beginning, with these two times.
    fn certificate(version: &[u8], times: &[u8]) -> Vec<u8> {
        let element = |tag: u8, content: &[u8]| match content.len() {
            length @ 0..0x80 => [&[tag, length as u8], content].concat(),
            length => [&[tag, 0x82, (length >> 8) as u8, length as u8], content].concat(),
        };
        // An issuer that is long enough for a long length.
        let issuer = element(SEQUENCE, &[0x31; 300]);
        let body =
            [version, &element(INTEGER, &[1]), &element(SEQUENCE, &[]), &issuer, &element(SEQUENCE, times)].concat();
        element(SEQUENCE, &element(SEQUENCE, &body))
    }

    #[test]
    fn both_forms_of_time_are_read() {
        for (times, expected) in [
            (&b"\x17\x0d250101000000Z\x17\x0d261231235959Z"[..], "2026-12-31T23:59:59.000Z"),
            (b"\x17\x0d490101000000Z\x17\x0d491231235959Z", "2049-12-31T23:59:59.000Z"),
            (b"\x17\x0d500101000000Z\x17\x0d991231235959Z", "1999-12-31T23:59:59.000Z"),
            (b"\x17\x0d250101000000Z\x18\x0f20500101000000Z", "2050-01-01T00:00:00.000Z"),
            (b"\x18\x0f20500101000000Z\x18\x0f99991231235959Z", "9999-12-31T23:59:59.999Z"),
        ] {
            for version in [&b"\xa0\x03\x02\x01\x02"[..], b""] {
                let found = not_after(&certificate(version, times)).map(|time| time.to_string());
                assert_eq!(found.as_deref(), Some(expected));
            }
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for times in [
            &b""[..],
            b"\x17\x0d250101000000Z",
            b"\x17\x0d250101000000Z\x17\x0d261331235959Z",
            b"\x17\x0d250101000000Z\x17\x0b2612312359Z",
            b"\x17\x0d250101000000Z\x18\x0f2050-1-1000000Z",
            b"\x17\x0d250101000000Z\x04\x0d261231235959Z",
        ] {
            assert_eq!(not_after(&certificate(b"", times)), None, "{times:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..64), cut in 0_usize..400) {
            let _ = not_after(&bytes);
            let whole = certificate(&bytes, b"\x17\x0d250101000000Z\x17\x0d261231235959Z");
            let _ = not_after(&whole[..cut.min(whole.len())]);
        }
    }
}
