//! Made-up addresses: each name that the command asks for gets one of its own, so that a connection
//! tells which name it is for, and nothing that an answer says is taken on trust. Pure.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Instant,
};

/// The first made-up address of the fourth version, in what RFC 2544 sets aside for tests.
const FIRST_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 0);
/// The first of the sixth version, in a private range of this engine's own (RFC 4193).
const FIRST_V6: Ipv6Addr = Ipv6Addr::new(0xfd6f, 0x6272, 0x6169, 0x6e00, 0, 0, 0, 0);

/// How many names have an address at a time; then the oldest one loses its own.
const MOST: u32 = 16 * 1024;

/// The names that were asked for.
#[derive(Debug, Default)]
pub(super) struct Names {
    entries: Vec<Entry>,
    by_name: HashMap<Arc<str>, u32>,
    next: u32,
}

/// A name and what was found out about it.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) name: Arc<str>,
    /// Its real addresses, and until when they may be used.
    pub(super) addresses: Arc<[IpAddr]>,
    pub(super) until: Instant,
}

impl Names {
    /// What is known about a name, unless it is too old.
    pub(super) fn fresh(&self, name: &str, now: Instant) -> Option<&Entry> {
        let entry = &self.entries[*self.by_name.get(name)? as usize];
        (now < entry.until).then_some(entry)
    }

    /// Keeps what was found out about a name; its made-up addresses stay the same.
    pub(super) fn keep(&mut self, name: &str, addresses: Arc<[IpAddr]>, until: Instant) {
        if let Some(index) = self.by_name.get(name) {
            let entry = &mut self.entries[*index as usize];
            (entry.addresses, entry.until) = (addresses, until);
            return;
        }
        let name: Arc<str> = name.into();
        let index = self.next;
        self.next = (self.next + 1) % MOST;
        let entry = Entry { name: Arc::clone(&name), addresses, until };
        match self.entries.get_mut(index as usize) {
            Some(old) => {
                let old = std::mem::replace(old, entry);
                self.by_name.remove(&old.name);
            }
            None => self.entries.push(entry),
        }
        self.by_name.insert(name, index);
    }

    /// The made-up addresses of a name that is kept.
    pub(super) fn made_up(&self, name: &str) -> Option<(Ipv4Addr, Ipv6Addr)> {
        let index = *self.by_name.get(name)?;
        let v4 = Ipv4Addr::from_bits(FIRST_V4.to_bits() + index);
        let v6 = Ipv6Addr::from_bits(FIRST_V6.to_bits() + u128::from(index));
        Some((v4, v6))
    }

    /// The name that a made-up address stands for.
    pub(super) fn behind(&self, address: IpAddr) -> Option<&Entry> {
        let index = match address {
            IpAddr::V4(address) => u128::from(address.to_bits().checked_sub(FIRST_V4.to_bits())?),
            IpAddr::V6(address) => address.to_bits().checked_sub(FIRST_V6.to_bits())?,
        };
        self.entries.get(usize::try_from(index).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{FIRST_V4, FIRST_V6, MOST, Names};

    fn keep(names: &mut Names, name: &str, until: Instant) {
        names.keep(name, Arc::from([IpAddr::from([192, 0, 2, 1])]), until);
    }

    #[test]
    fn a_name_keeps_its_addresses() {
        let now = Instant::now();
        let mut names = Names::default();
        keep(&mut names, "a.example", now);
        keep(&mut names, "b.example", now + Duration::from_secs(1));
        let (v4, v6) = names.made_up("b.example").unwrap();
        assert_eq!(&*names.behind(v4.into()).unwrap().name, "b.example");
        assert_eq!(&*names.behind(v6.into()).unwrap().name, "b.example");
        assert!(names.fresh("a.example", now).is_none());
        assert!(names.fresh("b.example", now).is_some());
        keep(&mut names, "b.example", now);
        assert_eq!(names.made_up("b.example"), Some((v4, v6)));
    }

    #[test]
    fn the_oldest_name_gives_way() {
        let now = Instant::now();
        let mut names = Names::default();
        for n in 0..=MOST {
            keep(&mut names, &format!("n{n}.example"), now);
        }
        assert!(names.made_up("n0.example").is_none());
        assert_eq!(&*names.behind(FIRST_V4.into()).unwrap().name, format!("n{MOST}.example"));
        assert_eq!(names.entries.len(), MOST as usize);
        assert_eq!(names.by_name.len(), MOST as usize);
    }

    #[test]
    fn other_addresses_stand_for_nothing() {
        let mut names = Names::default();
        keep(&mut names, "a.example", Instant::now());
        for address in ["198.18.1.1", "198.18.0.255", "0.0.0.0", "255.255.255.255", "::", "::1"] {
            assert!(names.behind(address.parse().unwrap()).is_none(), "{address}");
        }
        assert!(names.behind(FIRST_V6.into()).is_some());
    }
}
