/* Preloaded into a program and its children: appends each address that is connected to, and each name that is looked up,
   to the file that CONNECTIONS names. Sockets of this machine's own file system are not counted. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void note(const char *what) {
  const char *path = getenv("CONNECTIONS");
  char line[512];
  const int length = snprintf(line, sizeof line, "%.500s\n", what);
  const int file = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
  if (file < 0 || write(file, line, length) != length) abort();
  close(file);
}

int connect(int socket, const struct sockaddr *address, socklen_t length) {
  char where[INET6_ADDRSTRLEN];
  if (address->sa_family == AF_INET) note(inet_ntop(AF_INET, &((struct sockaddr_in *)address)->sin_addr, where, sizeof where));
  if (address->sa_family == AF_INET6) note(inet_ntop(AF_INET6, &((struct sockaddr_in6 *)address)->sin6_addr, where, sizeof where));
  return ((int (*)(int, const struct sockaddr *, socklen_t))dlsym(RTLD_NEXT, "connect"))(socket, address, length);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **results) {
  if (name) note(name);
  return ((int (*)(const char *, const char *, const struct addrinfo *, struct addrinfo **))dlsym(RTLD_NEXT, "getaddrinfo"))(
      name, service, hints, results);
}
