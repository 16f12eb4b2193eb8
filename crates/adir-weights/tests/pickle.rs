//! Hostile checkpoints: nothing in them runs, and each ends in an error or in nothing but its tensors.

mod common;

use adir_weights::{Error, WeightFile};
use common::{Entry, dictionary, open, stored, tensor, text};

/// A zip archive of uncompressed entries.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    common::zip(&entries.iter().map(|(name, content)| stored(name, content)).collect::<Vec<Entry>>())
}

/// A dictionary with the tensor as "w".
fn checkpoint(len: &[u8], view: &[u8]) -> Vec<u8> {
    [b"\x80\x02}X\x01\0\0\0w", &tensor(len, view)[..], b"s."].concat()
}

const SIX: &[u8] = b"K\x06";

#[test]
fn the_crafted_archive_is_a_valid_checkpoint() {
    let file = open(&checkpoint(SIX, b"K\x00K\x02K\x03\x86K\x03K\x01\x86")).unwrap();
    assert_eq!(file.info("w").unwrap().shape, [2, 3]);
    assert_eq!(file.read_f32("w").unwrap(), [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    let turned = open(&checkpoint(SIX, b"K\x00K\x03K\x02\x86K\x01K\x03\x86")).unwrap();
    assert_eq!(turned.read_f32("w").unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let windows = open(&checkpoint(SIX, b"K\x00K\x02K\x03\x86K\x01K\x01\x86")).unwrap();
    assert_eq!(windows.read_f32("w").unwrap(), [0.0, 1.0, 2.0, 1.0, 2.0, 3.0]);
}

#[test]
fn a_tensor_of_a_subclass_is_a_tensor() {
    let plain = tensor(SIX, b"K\x01K\x02K\x02\x86K\x02K\x01\x86");
    let arguments = plain.strip_prefix(b"ctorch._utils\n_rebuild_tensor_v2\n").and_then(|call| call.strip_suffix(b"R"));
    let function = b"ctorch._tensor\n_rebuild_from_type_v2\n(ctorch._utils\n_rebuild_tensor_v2\ncmodule\nClass\n";
    let call = [function, arguments.unwrap(), b"}tR"].concat();
    let file = open(&dictionary(&[("w", call)])).unwrap();
    assert_eq!(file.info("w").unwrap().shape, [2, 2]);
    assert_eq!(file.read_f32("w").unwrap(), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn names_have_a_largest_length() {
    let nested = |keys: &[usize]| {
        let innermost = tensor(SIX, b"K\x00K\x06\x85K\x01\x85");
        let wrap = |inner: Vec<u8>, len: &usize| [b"}", &text(&"k".repeat(*len))[..], &inner, b"s"].concat();
        open(&[b"\x80\x02", &keys.iter().fold(innermost, wrap)[..], b"."].concat())
    };
    // With the dots between the keys.
    assert_eq!(nested(&[256, 256, 256, 253]).unwrap().names().next().unwrap().len(), 1024);
    assert!(nested(&[256, 256, 256, 254]).is_err());
    assert!(nested(&[257]).is_err());
}

/// The ways in which pickles run code: by REDUCE, by building objects, by every way of naming a function.
#[test]
fn attacks_run_nothing() {
    let marker = std::env::temp_dir().join(format!("adir-attack-{}", std::process::id()));
    let command = format!("touch {}", marker.display());
    let text = |t: &str| [b"X", &(t.len() as u32).to_le_bytes()[..], t.as_bytes()].concat();
    let command = text(&command);
    let global = |module: &str, name: &str| format!("c{module}\n{name}\n").into_bytes();
    let mut attacks: Vec<Vec<u8>> = Vec::new();
    for (module, name) in [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("subprocess", "check_output"),
        ("subprocess", "Popen"),
        ("builtins", "eval"),
        ("builtins", "exec"),
        ("__builtin__", "eval"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("runpy", "_run_code"),
        ("pkgutil", "resolve_name"),
        ("importlib", "import_module"),
        ("webbrowser", "open"),
        ("ctypes", "CDLL"),
        ("torch", "load"),
        ("torch.hub", "load"),
        ("torch.serialization", "load"),
        ("torch._utils", "_import_dotted_name"),
        ("torch.jit.unsupported_tensor_ops", "execWrapper"),
        ("numpy.f2py.crackfortran", "param_eval"),
        ("pip._internal.cli.main", "main"),
        ("functools", "partial"),
    ] {
        attacks.push([b"\x80\x02", &global(module, name)[..], &command, b"\x85R."].concat());
    }
    // By text, through an object's state, as INST and OBJ, as a class with arguments, nested in a subclass.
    attacks.push([b"\x80\x04", &text("os")[..], &text("system"), b"\x93", &command, b"\x85R."].concat());
    attacks.push([b"\x80\x02", &global("os", "system")[..], &command, b"\x85R}b."].concat());
    attacks.push([b"(", &command[..], b"ios\nsystem\n."].concat());
    attacks.push([b"(", &global("os", "system")[..], &command, b"o."].concat());
    attacks.push([b"\x80\x02", &global("os", "system")[..], &command, b"\x85\x81."].concat());
    attacks.push([b"\x80\x04", &global("os", "system")[..], &command, b"\x85}\x92."].concat());
    let subclass = global("torch._tensor", "_rebuild_from_type_v2");
    attacks.push([b"\x80\x02", &subclass[..], b"(", &global("os", "system"), b"N", &command, b"\x85NtR."].concat());
    attacks.push(
        [b"\x80\x02", &global("torch._utils", "_rebuild_parameter")[..], &global("os", "system"), b"\x85R."].concat(),
    );
    assert!(attacks.len() >= 20);
    for attack in &attacks {
        let message = match open(attack) {
            Err(Error::Malformed { message, .. }) => message,
            other => panic!("{}: {other:?}", String::from_utf8_lossy(attack)),
        };
        assert!(message.contains("no tensor"), "{message}");
        // Beside a tensor, the tensor is what comes out and all that does.
        let payload = &attack[if attack[0] == 0x80 { 2 } else { 0 }..attack.len() - 1];
        let view = b"K\x00K\x06\x85K\x01\x85";
        let mixed = [b"\x80\x02}X\x01\0\0\0w", &tensor(SIX, view)[..], b"sX\x01\0\0\0x", payload, b"s."].concat();
        let file = open(&mixed).unwrap();
        assert!(file.names().eq(["w"]));
        assert_eq!(file.read_f32("w").unwrap().len(), 6);
    }
    assert!(!marker.exists());
}

#[test]
fn malformed_descriptions_are_errors() {
    let ok = b"K\x00K\x06\x85K\x01\x85";
    let rank17 = [b"K\x00(", &b"K\x01".repeat(17)[..], b"t(", &b"K\x01".repeat(17), b"t"].concat();
    let global = "ctorch._utils\n_rebuild_tensor_v2\n";
    let cases: Vec<Vec<u8>> = vec![
        checkpoint(SIX, b""),                                    // too few arguments
        checkpoint(SIX, b"J\xff\xff\xff\xffK\x01\x85K\x01\x85"), // negative offset
        checkpoint(SIX, b"K\x00J\xff\xff\xff\xff\x85K\x01\x85"), // negative extent
        checkpoint(SIX, b"K\x00K\x02\x85J\xff\xff\xff\xff\x85"), // negative stride
        checkpoint(SIX, b"K\x01K\x06\x85K\x01\x85"),             // one past the end
        checkpoint(SIX, b"K\x00K\x04\x85K\x02\x85"),             // strided past the end
        checkpoint(SIX, b"K\x00K\xff\x85K\x00\x85"),             // a repeated element
        checkpoint(SIX, b"K\x00J\xff\xff\xff\x7f\x85K\x01\x85"), // larger than the file
        checkpoint(SIX, &[b"K\x00\x8a\x08", &i64::MAX.to_le_bytes()[..], b"K\x02\x86K\x01K\x01\x86"].concat()),
        checkpoint(SIX, &[b"K\x00K\x02\x85\x8a\x08", &i64::MAX.to_le_bytes()[..], b"\x85"].concat()),
        checkpoint(SIX, &[b"\x8a\x08", &i64::MAX.to_le_bytes()[..], b"K\x01\x85K\x01\x85"].concat()),
        checkpoint(SIX, b"K\x00K\x06\x85)"),     // fewer strides than extents
        checkpoint(SIX, b"K\x00NK\x01\x85"),     // no shape
        checkpoint(SIX, b"K\x00N\x85K\x01\x85"), // an extent that is no number
        checkpoint(SIX, &rank17),
        checkpoint(b"K\x07", ok),             // storage larger than its bytes
        checkpoint(b"J\xff\xff\xff\xff", ok), // negative storage
        checkpoint(b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f", ok), // bytes overflow
        checkpoint(b"N", ok),
        checkpoint(b"", ok),          // short persistent id
        checkpoint(b"K\x06(t", ok),   // view of another storage
        b"\x80\x02}K\x01Q.".to_vec(), // persistent id that is no tuple
        b"\x80\x02K\x01K\x02K\x03\x87Q.".to_vec(),
        format!("\u{2}{global})R.").into_bytes(),
        [b"\x80\x02", global.as_bytes(), b")R."].concat(), // no arguments
        [b"\x80\x02", global.as_bytes(), b"K\x01R."].concat(), // arguments that are no tuple
        b"\x80\x02.".to_vec(),                             // nothing to return
        b"\x80\x02t.".to_vec(),                            // no mark
        b"\x80\x02(0(K\x01s.".to_vec(),
        b"\x80\x02K\x01(0a.".to_vec(),
        b"\x80\x02}(K\x01u.".to_vec(),         // key without value
        b"\x80\x02K\x01K\x02a.".to_vec(),      // append to a number
        b"\x80\x02K\x01K\x02K\x03s.".to_vec(), // item of a number
        b"\x80\x02h\x05.".to_vec(),            // never remembered
        b"\x80\x02q\x05.".to_vec(),            // remember nothing
        b"\x80\x02X\xff\xff\xff\xff".to_vec(), // text longer than the file
        b"\x80\x02T\xff\xff\xff\xffabc.".to_vec(),
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.".to_vec(),
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\xffabc.".to_vec(),
        b"\x80\x02\x8b\xff\xff\xff\xff.".to_vec(),
        [b"\x80\x02X\x01\0\x01\0", "a".repeat(0x10001).as_bytes(), b"."].concat(), // text above 64 KiB
        b"\x80\x02X\x02\0\0\0\xff\xfe.".to_vec(),                                  // not UTF-8
        b"cos\nsystem".to_vec(),                                                   // a line without an end
        b"\x80\x02\x82\x01.".to_vec(),                                             // extension registry
        b"\x80\x05\x97.".to_vec(),                                                 // out-of-band buffer
        b"\x80\x04K\x01K\x02\x93.".to_vec(),                                       // global named by numbers
        b"\xff".to_vec(),
        Vec::new(),
    ];
    for (number, case) in cases.iter().enumerate() {
        match open(case) {
            Err(Error::Malformed { message, .. }) => assert!(!message.is_empty()),
            other => panic!("case {number}: {other:?}"),
        }
    }
    assert!(open(&checkpoint(SIX, ok)).is_ok());
    // A tuple taken across a mark, beside a good tensor that would otherwise come out.
    let mut across = checkpoint(SIX, ok);
    across.pop();
    across.extend(b"K\x01(K\x02\x8600.");
    assert!(open(&across).is_err());
}

#[test]
fn numbers_of_any_length_are_read_or_left_alone() {
    let view = |extent: &[u8]| [b"K\x00", extent, b"\x85K\x01\x85"].concat();
    for extent in [&b"\x8a\x01\x06"[..], b"\x8b\x02\0\0\0\x06\0", b"L6L\n", b"I6\n", b"M\x06\x00"] {
        assert_eq!(open(&checkpoint(SIX, &view(extent))).unwrap().info("w").unwrap().shape, [6]);
    }
    let long = [b"\x8a\xff", &[1; 255][..]].concat();
    assert!(open(&checkpoint(SIX, &view(&long))).is_err());
}

#[test]
fn malformed_archives_are_errors() {
    let pickle = checkpoint(SIX, b"K\x00K\x06\x85K\x01\x85");
    let data = [0; 24];
    let open = |bytes: Vec<u8>| WeightFile::from_bytes("archive", bytes);
    assert!(open(zip(&[("a/data.pkl", &pickle), ("a/data/0", &data)])).is_ok());
    assert!(open(zip(&[("data.pkl", &pickle), ("data/0", &data)])).is_ok(), "no folder");
    for entries in [
        &[("a/data/0", &data[..])][..],                                           // no pickle
        &[("a/data.pkl", &pickle), ("b/data.pkl", &pickle), ("a/data/0", &data)], // two
        &[("a/data.pkl", &pickle), ("a/data/0", &data), ("a/data/0", &data)],     // twice
        &[("a/data.pkl", &pickle)],                                               // no storage
        &[("a/data.pkl", &pickle), ("b/data/0", &data)],                          // elsewhere
        &[("a/data.pkl", &pickle), ("a/data/0", &data[..20])],                    // too short
        &[("a/data.pkl", &pickle), ("a/data/0", &data), ("a/byteorder", b"big")],
    ] {
        assert!(matches!(open(zip(entries)), Err(Error::Malformed { .. })));
    }
    let valid = zip(&[("a/data.pkl", &pickle), ("a/data/0", &data)]);
    // Encrypted, compressed by an unknown method, compressed with sizes no compression can reach.
    let central = valid.windows(4).position(|w| w == b"PK\x01\x02").unwrap();
    for (at, value) in [(8, 1), (10, 9), (20, 1), (24, 1), (42, 200), (44, 255), (28, 255), (0, 0)] {
        let mut bytes = valid.clone();
        bytes[central + at] = value;
        assert!(open(bytes).is_err(), "byte {at}");
    }
    // Two entries of the same bytes.
    let shared = zip(&[("a/data.pkl", &pickle), ("a/data/0", &data), ("a/data/1", &data)]);
    let place = |bytes: &[u8], n: usize| {
        bytes.windows(4).enumerate().filter(|(_, w)| w == b"PK\x01\x02").nth(n).unwrap().0 + 42
    };
    assert!(open(shared.clone()).is_ok());
    let mut overlapping = shared.clone();
    overlapping.copy_within(place(&shared, 1)..place(&shared, 1) + 4, place(&shared, 2));
    assert!(open(overlapping).unwrap_err().to_string().contains("inside one that ends"));
    // A storage said to inflate from 24 bytes to the gigabyte that a tensor claims.
    let huge = checkpoint(b"J\0\0\0\x10", b"K\x00J\0\0\0\x10\x85K\x01\x85");
    let mut inflated = zip(&[("a/data.pkl", &huge), ("a/data/0", &data)]);
    let central = inflated.windows(4).rposition(|w| w == b"PK\x01\x02").unwrap();
    inflated[central + 10] = 8;
    inflated[central + 24..central + 28].copy_from_slice(&(4_u32 << 28).to_le_bytes());
    assert!(open(inflated).is_err());
}
