#!/bin/sh
# Put a kernel and a start image under .cache/vm: a small machine that has all of cgroup v2, for the tests of limits.
#
# The kernel is taken out of Debian's package, without installing it. qemu-system-x86_64 and a static busybox must be
# there (packages qemu-system-x86, busybox-static). What is there already is kept.
set -eu

cache="$(cd "$(dirname "$0")/.." && pwd)/.cache/vm"
[ -f "$cache/initrd" ] && exit 0
command -v qemu-system-x86_64 >/dev/null || { echo "fetch-vm: qemu-system-x86_64 is missing" >&2; exit 1; }
busybox=$(command -v busybox) || { echo "fetch-vm: busybox is missing (busybox-static)" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
package=$(apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2; exit }')
apt-get -qq -o APT::Sandbox::User=root download "$package"
dpkg-deb -x "$package"_*.deb tree
mkdir -p image/bin image/modules image/root image/proc
cp "$busybox" image/bin/busybox
order="virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci netfs fscache 9pnet 9pnet_virtio 9p"
for name in $order; do
    find tree/lib/modules -name "$name.ko" -exec cp {} image/modules/ \;
done
cat >image/init <<INIT
#!/bin/busybox sh
# twice: which of them needs which differs between releases of the kernel
for name in $order $order; do /bin/busybox insmod /modules/\$name.ko 2>/dev/null; done
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /root
/bin/busybox mount -t proc none /proc
script=\$(/bin/busybox sed -n 's/.*hsu_script=\([^ ]*\).*/\1/p' /proc/cmdline)
/bin/busybox umount /proc
exec /bin/busybox switch_root /root \$script
INIT
ln -s busybox image/bin/sh
chmod +x image/init
mkdir -p "$cache"
cp tree/boot/vmlinuz-* "$cache/vmlinuz"
(cd image && find . | "$busybox" cpio -o -H newc 2>/dev/null | gzip) >"$cache/initrd.new"
mv "$cache/initrd.new" "$cache/initrd"
echo "fetch-vm: $cache"
