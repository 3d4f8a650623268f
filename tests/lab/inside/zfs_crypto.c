/* Copyright: the reversible.deploy authors
 * GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Stands in for libcrypto in the ZFS machine. libzfs calls this one function of it, for a dataset with a passphrase, and loads all of it into
 * every call of `zfs`: its 17,000 relocations cost an emulated processor more than most calls do. The real one is loaded once it is asked. */
#include <dlfcn.h>
#include <stddef.h>

typedef int Derive(const char *password, int length, const unsigned char *salt, int salt_length, int rounds, int key_length, unsigned char *key);

Derive PKCS5_PBKDF2_HMAC_SHA1;

int PKCS5_PBKDF2_HMAC_SHA1(const char *password, int length, const unsigned char *salt, int salt_length, int rounds, int key_length,
                           unsigned char *key)
{
    void *whole = dlopen("/usr/lib/whole/libcrypto.so.3", RTLD_NOW | RTLD_LOCAL);
    Derive *real = whole ? (Derive *)dlsym(whole, "PKCS5_PBKDF2_HMAC_SHA1") : NULL;
    return real ? real(password, length, salt, salt_length, rounds, key_length, key) : 0;
}
