/* Copyright: the reversible.deploy authors
 * GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
 * SPDX-License-Identifier: GPL-3.0-or-later
 *
 * Stands in for libgssapi_krb5 and the six libraries of Kerberos below it, in the ZFS machine. libnvpair packs its lists by libtirpc, which
 * would also log in by Kerberos: nothing there does, but every call of `zfs` would load it. What calls one of these ends at once. */
#include <stdlib.h>

#define ABSENT(name) void name(void) { abort(); }

ABSENT(gss_accept_sec_context)
ABSENT(gss_acquire_cred)
ABSENT(gss_canonicalize_name)
ABSENT(gss_delete_sec_context)
ABSENT(gss_display_name)
ABSENT(gss_display_status)
ABSENT(gss_duplicate_name)
ABSENT(gss_export_name)
ABSENT(gss_get_mic)
ABSENT(gss_import_name)
ABSENT(gss_init_sec_context)
ABSENT(gss_pname_to_uid)
ABSENT(gss_release_buffer)
ABSENT(gss_release_cred)
ABSENT(gss_release_name)
ABSENT(gss_sign)
ABSENT(gss_unwrap)
ABSENT(gss_verify_mic)
ABSENT(gss_wrap)
ABSENT(gss_wrap_size_limit)
void *GSS_C_NT_HOSTBASED_SERVICE, *GSS_C_NT_USER_NAME;
