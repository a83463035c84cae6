variable "environment" {
  description = "Which one this is: production has two of everything, and longer retention."
  type        = string
  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment must be staging or production."
  }
}

variable "secrets" {
  description = "What the module `secrets` made."
  type        = object({ arns = map(string), versions = map(number), key_arn = string })
}

variable "passwords" {
  description = "Of the database's users. They are written to where they are needed, and kept in no state."
  type        = object({ database_app = string, database_backup = string, database_migrator = string })
  ephemeral   = true
  sensitive   = true
}

variable "domain" {
  description = "The name of the service, such as api.example.com."
  type        = string
}

variable "zone_id" {
  description = "The Route 53 zone that the name is in."
  type        = string
}

variable "public_url" {
  description = "The origin that people know, where it is not https:// and the name."
  type        = string
  default     = null
}

variable "mail_from" {
  description = "Whom mail is from."
  type        = string
}

variable "backup_recipients" {
  description = "The public age keys that backups are encrypted for."
  type        = list(string)
  validation {
    condition     = alltrue([for key in var.backup_recipients : can(regex("^age1[02-9ac-hj-np-z]{58}$", key))])
    error_message = "backup_recipients are public age keys, which begin with age1."
  }
}

variable "github_subject" {
  description = "How the subject of this repository's tokens begins: repo:owner/name, or repo:owner@123/name@456. :environment:NAME follows."
  type        = string
  validation {
    condition     = can(regex("^repo:([A-Za-z0-9-]+/[A-Za-z0-9._-]+|[A-Za-z0-9-]+@[0-9]+/[A-Za-z0-9._-]+@[0-9]+)$", var.github_subject))
    error_message = "github_subject must name one repository exactly, such as repo:owner/name."
  }
}

variable "tasks" {
  description = "CPU units and MiB of one task, and how few and how many there may be."
  type        = object({ cpu = number, memory = number, min = number, max = number })
  validation {
    condition     = 1 <= var.tasks.min && var.tasks.min <= var.tasks.max
    error_message = "tasks needs 1 <= min <= max."
  }
}

variable "database_class" {
  description = "The size of the database server, such as db.t4g.small."
  type        = string
}

variable "database_gigabytes" {
  description = "Where its disk begins; it grows by itself to ten times that."
  type        = number
}

variable "monthly_budget_usd" {
  description = "What this account may cost in a month, before somebody is told."
  type        = number
}

variable "variables" {
  description = "Variables of the service in which this environment differs from deploy/variables.env, or from what is known here."
  type        = map(string)
  default     = {}
}

variable "zones" {
  description = "The two availability zones. By name, so that a third one that AWS opens moves nothing."
  type        = list(string)
  validation {
    condition     = length(distinct(var.zones)) == 2
    error_message = "zones needs two different ones."
  }
}

variable "cidr" {
  description = "The network, of 16 bits."
  type        = string
  default     = "10.20.0.0/16"
}

variable "requests_per_minute" {
  description = "What one address may ask for before the firewall answers 429. The service's own limits are lower."
  type        = number
  default     = 1200
}

variable "protected" {
  description = "Whether the database, the load balancer and the logs refuse to be deleted. To take all of it down, apply false first."
  type        = bool
  default     = true
}
