"""Seeded damage to bytes: what disks, copies and attackers do to a file."""

import random

TOKENS = [b'\0', b'\xff', b'\xff\xd8', b'\xff\xda', b'\n', b'"', b"'", b'<', b'>', b'&', b'{', b'}', b'[', b']', b',', b':',
          b'(', b')',
          b'-1', b'NaN', b'Infinity', b'1e999', b'9' * 400, b'../../x', b'/etc/passwd', b'\xef\xbb\xbf',
          b'\xf0\x9f\x92\xa5', b'\x1b[2J',
          b'null', b'true', b'[' * 3000, b'{"a":' * 3000, b'<a>' * 3000, b'\r\n', b'%s%n', b'\\', b' ' * 500,
          b'\x23\x0a\xd7\xce']


def mutated(data, name, number):
    """Bytes that differ from `data`, a function of (name, number) alone: one to four changes."""
    chance = random.Random('%s %d' % (name, number))
    result = bytes(data)
    while result == data:
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            result = _changed(result, chance)
    return result


def _changed(data, chance):
    begin = chance.randrange(len(data) + 1)
    end = min(len(data), begin + chance.choice((1, 2, 4, 8, 64, 1000)))
    kind = chance.choice(('flip', 'flip', 'byte', 'cut', 'end', 'insert', 'token', 'token', 'zero', 'repeat', 'number'))
    if kind in ('flip', 'byte') and begin < len(data):
        value = data[begin] ^ 1 << chance.randrange(8) if kind == 'flip' else chance.randrange(256)
        return data[:begin] + bytes([value]) + data[begin + 1:]
    if kind == 'cut':
        return data[:begin] + data[end:]
    if kind == 'end':
        return data[:begin]
    if kind == 'insert':
        return data[:begin] + bytes(chance.randrange(256) for _ in range(end - begin)) + data[begin:]
    if kind == 'token':
        return data[:begin] + chance.choice(TOKENS) + data[chance.choice((begin, end)):]
    if kind == 'zero':
        return data[:begin] + b'\0' * (end - begin) + data[end:]
    if kind == 'repeat':
        return data[:begin] + data[begin:end] * chance.choice((2, 3, 50)) + data[end:]
    return _other_number(data, begin, chance)


def _other_number(data, begin, chance):
    """The next number of a text becomes a hostile one."""
    digits = b'0123456789'
    while begin < len(data) and data[begin] not in digits:
        begin += 1
    end = begin
    while end < len(data) and data[end] in digits:
        end += 1
    return data[:begin] + chance.choice((b'0', b'-1', b'2147483648', b'9' * 19, b'9' * 5000, b'1e400', b'NaN', b'0.5',
                                         b'"7"')) + data[end:]
