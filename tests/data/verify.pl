#!/usr/bin/perl
# Verifies the webhook-signature of a request (Standard Webhooks 1.0) with what comes with Perl.
# Arguments: secret, webhook-id, webhook-timestamp, webhook-signature; the body is read from standard input.
use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use MIME::Base64 qw(decode_base64 encode_base64);

my ($secret, $id, $timestamp, $signatures) = @ARGV;
binmode STDIN;
my $body = do { local $/; <STDIN> };
$secret =~ s/^whsec_//;
my $expected = 'v1,' . encode_base64(hmac_sha256("$id.$timestamp.$body", decode_base64($secret)), '');
my $valid = grep { $_ eq $expected } split / /, $signatures;
print $valid ? "valid\n" : "not valid\n";
exit($valid ? 0 : 1);
