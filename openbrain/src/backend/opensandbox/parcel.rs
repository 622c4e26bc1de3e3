//! What a bridge prints, read back: exact whatever happened to line ends and bytes on the way.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::backend::helper::wire::{self, Report, parcel};

/// Longer than any parcel of a bridge is as text.
const MAX_TEXT: usize = 64 * 1024;

/// One thing that a bridge says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Parcel {
    Report(Report),
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// A piece of standard input was read.
    Taken,
    /// Nobody reads standard input any more.
    Closed,
}

/// What is wrong with the text of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// This is not from a bridge.
    Foreign(String),
    /// A parcel is missing or there twice.
    Lost { expected: u32, found: u32 },
}

/// Puts parcels together from the texts of an agent, wherever those were cut and whether or not
/// they kept their line ends.
#[derive(Debug, Default)]
pub(super) struct Parcels {
    text: Vec<u8>,
    next: u32,
}

impl Parcels {
    /// Takes a text and returns the parcels that are complete with it.
    pub(super) fn push(&mut self, text: &str) -> Result<Vec<Parcel>, Damage> {
        let mut found = Vec::new();
        for byte in text.bytes() {
            match byte {
                b'\r' | b'\n' => {}
                parcel::END => {
                    let text = std::mem::take(&mut self.text);
                    found.push(self.open(&text)?);
                }
                _ if self.text.len() == MAX_TEXT => return Err(foreign(&self.text)),
                _ => self.text.push(byte),
            }
        }
        Ok(found)
    }

    /// What has come of a parcel that never was complete: an agent's own words, perhaps.
    pub(super) fn rest(&self) -> String {
        String::from_utf8_lossy(&self.text).into_owned()
    }

    fn open(&mut self, text: &[u8]) -> Result<Parcel, Damage> {
        let bytes = BASE64.decode(text).map_err(|_| foreign(text))?;
        let (Some(number), Some(kind)) = (wire::read::<u32>(&bytes, 0), bytes.get(4)) else {
            return Err(foreign(text));
        };
        let expected = self.next;
        if number != expected {
            return Err(Damage::Lost { expected, found: number });
        }
        self.next = self.next.wrapping_add(1);
        let content = &bytes[5..];
        match *kind {
            parcel::REPORT => {
                wire::read(content, 0).map(Parcel::Report).ok_or_else(|| foreign(text))
            }
            parcel::STDOUT => Ok(Parcel::Stdout(content.to_vec())),
            parcel::STDERR => Ok(Parcel::Stderr(content.to_vec())),
            parcel::TAKEN => Ok(Parcel::Taken),
            parcel::CLOSED => Ok(Parcel::Closed),
            _ => Err(foreign(text)),
        }
    }
}

fn foreign(text: &[u8]) -> Damage {
    const SHOWN: usize = 200;
    Damage::Foreign(String::from_utf8_lossy(&text[..text.len().min(SHOWN)]).into_owned())
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
    use proptest::{
        collection::vec,
        prelude::{any, prop_assert_eq, proptest},
    };

    use super::{Damage, Parcel, Parcels, parcel};

    fn text(number: u32, kind: u8, content: &[u8]) -> String {
        let mut bytes = number.to_ne_bytes().to_vec();
        bytes.push(kind);
        bytes.extend_from_slice(content);
        format!("{};\n", BASE64.encode(bytes))
    }

    #[test]
    fn a_lost_parcel_is_noticed() {
        let mut parcels = Parcels::default();
        assert_eq!(parcels.push(&text(0, parcel::TAKEN, &[])), Ok(vec![Parcel::Taken]));
        let lost = parcels.push(&text(2, parcel::TAKEN, &[]));
        assert_eq!(lost, Err(Damage::Lost { expected: 1, found: 2 }));
    }

    #[test]
    fn what_no_bridge_says_is_named() {
        for wrong in
            ["bash: not found;", "AAAA;", &text(0, 99, &[]), &text(0, parcel::REPORT, &[1])]
        {
            assert!(matches!(Parcels::default().push(wrong), Err(Damage::Foreign(_))), "{wrong}");
        }
        assert!(Parcels::default().push(&"A".repeat(1 << 20)).is_err());
    }

    proptest! {
        /// However the texts are cut, and whatever line ends are lost or added.
        #[test]
        fn parcels_survive_every_agent(
            contents in vec((any::<bool>(), vec(any::<u8>(), 0..200)), 0..20),
            cuts in vec(0usize..2000, 0..20),
            keep in any::<bool>(),
        ) {
            let mut all = String::new();
            let mut expected = Vec::new();
            for (number, (out, content)) in contents.into_iter().enumerate() {
                let kind = if out { parcel::STDOUT } else { parcel::STDERR };
                all.push_str(&text(number as u32, kind, &content));
                expected.push(if out { Parcel::Stdout(content) } else { Parcel::Stderr(content) });
            }
            if !keep {
                all = all.replace('\n', "");
            }
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let mut parcels = Parcels::default();
            let mut found = Vec::new();
            for pair in cuts.windows(2) {
                found.extend(parcels.push(&all[pair[0]..pair[1]]).unwrap());
            }
            prop_assert_eq!(found, expected);
        }

        #[test]
        fn nothing_panics(texts in vec(".{0,100}", 0..10)) {
            let mut parcels = Parcels::default();
            for text in texts {
                let _ = parcels.push(&text);
            }
        }
    }
}
