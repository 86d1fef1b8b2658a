"""IAM: denies calls of a role that its policies do not allow.

moto can enforce policies too, but it ignores conditions and denies a call that is
allowed for some resources only. Here `requests` lists the permissions that a call
needs, and `policy` and `authority` check them against the role's deployed policies.
Only roles are checked: tests, Terraform and operators call with other keys and may do
everything.
"""
